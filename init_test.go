package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// --init: barco stays as process 1, and the command is its child.

// needStatic makes sure that the test binary can be executed in a root that has no libraries.
func needStatic(t *testing.T) {
	if r := barco(t, "-q", "-m", busyboxRoot(t), "--init", "-c", "/bin/true"); strings.Contains(r.stderr, "needs the loader") {
		t.Fatal("these tests need a static binary: make test-here, which builds one, not go test")
	}
}

func TestInit(t *testing.T) {
	needStatic(t)
	root := busyboxRoot(t)
	for _, uid := range []string{"0", "1000"} {
		// Twenty orphans end; the shell waits until none of them is left, as a zombie or otherwise.
		got := inside(t, root, `
			[ $$ != 1 ] && echo a child
			for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'true & true &') ; done
			until [ $(ls -d /proc/[0-9]* | wc -l) -le 5 ]; do :; done
			cat /proc/1/comm; cat /proc/$$/status | grep PPid; cat /proc/1/status`, "--init", "-u", uid)
		if !strings.HasPrefix(got, "a child\nbarco-init\nPPid:\t1\n") {
			t.Errorf("inside: %s", got)
		}
		own := inside(t, root, "cat /proc/self/status", "-u", uid)
		for _, field := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs"} { // as the command itself has it
			equal(t, "process 1's "+field, statusField(got, field), statusField(own, field))
		}
		for line := range strings.Lines(inside(t, root, "grep -h -E 'Cap(Prm|Bnd)|Seccomp:' /proc/1/task/*/status", "--init", "-u", uid)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			equal(t, "a thread's "+name, value, statusField(own, name))
		}
	}
	if r := barco(t, "-q", "-m", root, "--init", "-c", "/no/such"); r.status != statusNotFound || !strings.Contains(r.stderr, "barco: execve: execve(\"/no/such\"): no such file or directory (ENOENT)\nbarco: hint: /no/such does not exist inside ") {
		t.Errorf("a command that is not there: %+v", r)
	}
	if r := barco(t, "-q", "-m", root, "--init", "-c", "/bin"); r.status != statusNotExecutable {
		t.Errorf("a directory: %+v", r)
	}
	if r := barco(t, "-q", "-m", root, "--init", "--no-new-privs", "-c", "/bin/sh", "--", "-c", "exit 42"); r.status != 42 {
		t.Errorf("%+v", r)
	}
}

// Below an init every signal does to the command what it does anywhere, and the status says so.
func TestEverySignal(t *testing.T) {
	needStatic(t)
	root := busyboxRoot(t)
	harmless := map[unix.Signal]bool{unix.SIGQUIT: true /* to busybox's shell */, unix.SIGCHLD: true, unix.SIGCONT: true, unix.SIGURG: true, unix.SIGWINCH: true, unix.SIGSTOP: true, unix.SIGTSTP: true, unix.SIGTTIN: true, unix.SIGTTOU: true}
	for s := unix.Signal(1); s < 32; s++ {
		if harmless[s] {
			continue
		}
		if r := barco(t, "-q", "-m", root, "--init", "-c", "/bin/sh", "--", "-c", fmt.Sprintf("kill -%d $$", s)); r.status != 128+int(s) {
			t.Errorf("%v: %+v", s, r)
		}
	}
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGALRM} { // sent to barco
		cmd := command("-q", "-m", root, "--init", "-c", "/bin/sh", "--", "-c", "echo ready; exec sleep 1000")
		start(t, cmd)
		must(t, cmd.Process.Signal(s))
		cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status != 128+int(s) {
			t.Errorf("%v to barco: status %d", s, status)
		}
	}
}

// On a terminal the command has the foreground, and Ctrl-Z does not leave it stopped for ever.
func TestInitOnATerminal(t *testing.T) {
	needStatic(t)
	s := onScreen(t, command("-q", "-m", busyboxRoot(t), "--init", "-c", "/bin/sh", "--", "-c", "trap 'echo interrupted; exit 7' INT; echo ready; read line; echo got $line; while :; do read x; done"))
	s.waitFor("ready")
	s.typeText("\x1a")
	s.typeText("text\r")
	s.waitFor("got text")
	s.typeText("\x03")
	s.waitFor("interrupted")
	s.endsWith(7)
	s = onScreen(t, command("-q", "-m", busyboxRoot(t), "--init", "-c", "/bin/sh", "--", "-c", "echo ready; exec sleep 1000"))
	s.waitFor("ready")
	s.typeText("\x03") // no process 1, so one is enough
	s.endsWith(130)
	s = onScreen(t, command("-q", "-m", busyboxRoot(t), "--init", "-c", "/bin/sh"))
	s.typeText("sleep 1000 & jobs; echo no job $((6*7))\r")
	s.waitFor("no job 42")
	s.typeText("exit 5\r")
	s.endsWith(5)
}
