package main

import (
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The init (--init). Process 1 of a pid namespace has two duties that most commands know nothing of (pid_namespaces(7)): it has no
// default signal handlers, so that SIGTERM does nothing to it, and it inherits every orphan, and must wait for it or it stays a
// zombie. With --init barco itself stays as process 1, and starts the command as its child.
//
// It does so by executing itself once more. Capabilities, filter and ids have been put on one thread alone, and execve(2) ends all
// others: what then runs is contained as the command is, in every thread. It has no file in the container, but /proc/self/exe.
//
// Chapter: docs/13-signals-and-cleaning-up.md

// reaperName is its argv[0].
const reaperName = "barco-init: reaper"

// becomeReaper executes barco as process 1. The socket stays open: over it come the configuration, once more, and the end. Child.
func becomeReaper(c *child) error {
	if _, err := unix.FcntlInt(uintptr(c.socket), unix.F_SETFD, 0); err != nil {
		return sys(err, "fcntl(%d, F_SETFD, 0)", c.socket)
	}
	logLine(levelDebug, 1, `execve("/proc/self/exe", [%q])`, reaperName)
	err := unix.Exec("/proc/self/exe", []string{reaperName}, childEnv)
	return sys(err, "execve(%q)", "/proc/self/exe")
}

// reaperMain is main in process 1 after that. It ends as the command does, and the kernel then ends whatever the command has left.
func reaperMain() {
	debug.SetGCPercent(-1)                          // it makes next to no garbage
	name, _ := unix.BytePtrFromString("barco-init") // for ps(1), which else has the name of the link
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	signals := make(chan os.Signal, 64)
	catch(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGWINCH, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	catchOthers(signals)
	catchRealTime(signals)
	c := &child{socket: childSocket}
	unix.CloseOnExec(int(childSocket))
	pid, err := startCommand(c)
	if err != nil {
		c.fail(err)
	}
	unix.Close(int(childSocket)) // end of file: the command runs
	go func() {
		defer lastWords()
		for s := range signals {
			unix.Kill(pid, s.(unix.Signal))
		}
	}()
	os.Exit(reap(pid, c.Terminal))
}

// startCommand starts the command, in a process group of its own: on a terminal, that group is the one that Ctrl-C is for.
func startCommand(c *child) (pid int, err error) {
	if err := c.receiveConfig(); err != nil {
		return 0, err
	}
	process, err := os.StartProcess(string(c.Argv[0]), plainStrings(c.Argv), &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Env:   plainStrings(c.Env),
		Sys:   &unix.SysProcAttr{Setpgid: true},
	})
	if err := sys(err, "execve(%q)", c.Argv[0]); err != nil {
		return 0, in("execve", explainExec(c, err))
	}
	if c.Terminal {
		err := unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, process.Pid)
		if err := sys(err, "ioctl(0, TIOCSPGRP, [%d])", process.Pid); err != nil {
			return 0, in("terminal", err)
		}
	}
	return process.Pid, nil
}

// reap waits for every process that is left to process 1, until the command ends, and returns its status.
func reap(command int, terminal bool) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // it cannot be: the command is a child until it has been waited for
			return statusBarcoFailed
		case pid == command && status.Stopped() && terminal && status.StopSignal() != unix.SIGSTOP:
			unix.Kill(-command, unix.SIGCONT) // by Ctrl-Z, or as it used the terminal before that was its own: no shell is there to go on with it
		case pid == command && status.Exited():
			return status.ExitStatus()
		case pid == command && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}
