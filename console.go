package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The terminal (pty(7), tty_ioctl(4)). A command on the host's own terminal could type there as if the user had
// (CVE-2017-5226), and a shell in a pid namespace of its own fails at job control on it. So the container gets a
// pseudo-terminal from its own devpts: the child keeps the slave, the parent gets the master, and between it and the user's
// terminal passes on whatever is typed and shown.

// ttyGroup is the group "tty" of every distribution: terminals belong to it, so that write(1) can write to them.
const ttyGroup = 5

// isTerminal says whether a descriptor is one.
func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// openTerminal opens a pseudo-terminal, sends the parent the master, and makes the slave the controlling terminal of a new
// session (setsid(2), TIOCSCTTY(2const)) and the standard streams, but for a standard error that goes elsewhere. Child.
func openTerminal(c *child) error {
	if !c.Terminal {
		return nil
	}
	info("opening a terminal of its own...")
	master, err := unix.Openat(c.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err := sys(err, `openat(%d, "ptmx", O_RDWR|O_NOCTTY|O_CLOEXEC)`, c.pts); err != nil {
		return err
	}
	if err := sys(unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0), "ioctl(%d, TIOCSPTLCK, [0])", master); err != nil {
		return err
	}
	// The slave by way of its master, not by its name: a path could have been made to mislead (CVE-2025-52565).
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if err := sys(errnoOrNil(errno), "ioctl(%d, TIOCGPTPEER, O_RDWR|O_NOCTTY)", master); err != nil {
		return err
	}
	slave := int(fd)
	if !c.OneID { // who has no other id owns it already
		if err := sys(unix.Fchown(slave, c.UID, ttyGroup), "fchown(%d, %d, %d)", slave, c.UID, ttyGroup); err != nil {
			return err
		}
	}
	if err := c.send(messageTerminal, nil, master); err != nil {
		return err
	}
	_, err = unix.Setsid()
	if err := sys(err, "setsid()"); err != nil {
		return err
	}
	if err := sys(unix.IoctlSetInt(slave, unix.TIOCSCTTY, 0), "ioctl(%d, TIOCSCTTY, 0)", slave); err != nil {
		return err
	}
	for fd := range 3 {
		if !isTerminal(fd) {
			continue
		}
		if err := sys(unix.Dup3(slave, fd, 0), "dup3(%d, %d, 0)", slave, fd); err != nil {
			return err
		}
	}
	return nil
}

// A terminal is the parent's side: the master, and how the user's own terminal was set before.
type terminal struct {
	master     int
	before     *unix.Termios
	interrupts int // Ctrl-C that nothing heard
}

// takeTerminal puts the user's terminal into raw mode: every key goes to the container, and what a key means is decided
// there (termios(3)). restore has to follow, whatever happens. Parent.
func takeTerminal(master int) (*terminal, error) {
	before, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err := sys(err, "ioctl(0, TCGETS)"); err != nil {
		return nil, err
	}
	t := &terminal{master: master, before: before}
	t.resize()
	raw := *before
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := sys(unix.IoctlSetTermios(0, unix.TCSETSW, &raw), "ioctl(0, TCSETSW, raw)"); err != nil {
		return nil, err
	}
	logEnd = "\r\n"
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	go func() {
		for range winch {
			t.resize()
		}
	}()
	return t, sys(unix.SetNonblock(master, true), "fcntl(%d, F_SETFL, O_NONBLOCK)", master)
}

// restore gives the user's terminal back as it was. Parent.
func (t *terminal) restore() {
	if t != nil {
		unix.IoctlSetTermios(0, unix.TCSETSW, t.before)
		logEnd = "\n"
	}
}

// resize gives the container's terminal the size of the user's; the kernel tells the programs on it (SIGWINCH).
func (t *terminal) resize() {
	if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, size)
	}
}

// relay passes on what is typed and what is shown, until the command has ended and all that it wrote is on the screen. Parent.
func (t *terminal) relay(command *os.Process) error {
	ended, err := unix.PidfdOpen(command.Pid, 0) // readable when the command has ended
	if err := sys(err, "pidfd_open(%d, 0)", command.Pid); err != nil {
		return err
	}
	defer unix.Close(ended)
	var typed []byte // and not yet taken by the container; more is not read meanwhile
	buffer := make([]byte, 32<<10)
	for keyboard := true; ; {
		poll := []unix.PollFd{{Fd: int32(t.master), Events: unix.POLLIN}, {Fd: int32(ended), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
		if len(typed) > 0 {
			poll[0].Events |= unix.POLLOUT
		} else if keyboard {
			poll[2].Fd = 0
		}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return sys(err, "poll([%d, %d, 0])", t.master, ended)
		}
		n, err := unix.Read(t.master, buffer)
		switch {
		case n > 0: // all there is on the screen, before the command's end counts
			if _, err := os.Stdout.Write(buffer[:n]); err != nil {
				return refuse("writing to the terminal: %v", err)
			}
		case poll[1].Revents != 0:
			return nil
		case err == unix.EIO: // nobody has the slave open any more, so only the end is left to wait for
			unix.Poll(poll[1:2], -1)
		default:
			if poll[2].Revents != 0 {
				n, err := unix.Read(0, buffer)
				keyboard = n > 0 || err == unix.EINTR
				typed = append(typed, buffer[:max(n, 0)]...)
				t.countInterrupts(command, buffer[:max(n, 0)])
			}
			if n, _ := unix.Write(t.master, typed); n > 0 {
				typed = typed[n:]
			}
		}
	}
}

// countInterrupts looks for a Ctrl-C that nothing in the container would ever hear: it goes to process 1, which ignores every
// signal that it has no handler for (pid_namespaces(7)). The first is explained, the second ends the container. Parent.
func (t *terminal) countInterrupts(command *os.Process, typed []byte) {
	settings, err := unix.IoctlGetTermios(t.master, unix.TCGETS)
	if err != nil || settings.Lflag&unix.ISIG == 0 || bytes.IndexByte(typed, settings.Cc[unix.VINTR]) < 0 {
		return
	}
	foreground, err := unix.IoctlGetInt(t.master, unix.TIOCGPGRP)
	group, err2 := unix.Getpgid(command.Pid)
	if err != nil || err2 != nil || foreground != group || handles(command.Pid, unix.SIGINT) {
		return
	}
	if t.interrupts++; t.interrupts == 1 {
		warn("Ctrl-C: the command has no handler for SIGINT, and as process 1 it then ignores it; another Ctrl-C kills it")
		return
	}
	warn("Ctrl-C again: killing the command")
	command.Kill()
}

// handles says whether a process has a handler for a signal: proc_pid_status(5), SigCgt.
func handles(pid int, s unix.Signal) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:\t"); ok {
			bits, _ := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return bits&(1<<(s-1)) != 0
		}
	}
	return false
}
