package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The terminal (pty(7), tty_ioctl(4)). A command on the host's own terminal could type there as if the user had
// (CVE-2017-5226), and a shell in a pid namespace of its own fails at job control on it. So the container gets a
// pseudo-terminal from its own devpts: the child keeps the slave, the parent gets the master, and between it and the user's
// terminal passes on whatever is typed and shown.
//
// Chapter: docs/12-terminal.md

// ttyGroup is the group "tty" of every distribution: terminals belong to it, so that write(1) can write to them.
const ttyGroup = 5

// isTerminal says whether a descriptor is one.
func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// openTerminal opens a pseudo-terminal, sends the parent the master, and makes the slave the controlling terminal of its
// session (TIOCSCTTY(2const)) and the standard streams, but for a standard error that goes elsewhere. Child.
func openTerminal(c *child) error {
	if !c.Terminal {
		return nil
	}
	info("opening a terminal of its own...")
	master, err := unix.Openat(c.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err := sys(err, `openat(%d, "ptmx", O_RDWR|O_NOCTTY|O_CLOEXEC) = %d`, c.pts, master); err != nil {
		return err
	}
	if err := sys(unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0), "ioctl(%d, TIOCSPTLCK, [0])", master); err != nil {
		return err
	}
	slave, err := openSlave(master)
	if err != nil {
		return err
	}
	if !c.OneID { // who has no other id owns it already
		if err := sys(unix.Fchown(slave, c.UID, ttyGroup), "fchown(%d, %d, %d)", slave, c.UID, ttyGroup); err != nil {
			return err
		}
	}
	if err := c.send(messageTerminal, nil, master); err != nil {
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

// openSlave opens the other side of a master. Not by its name: a path could have been made to mislead (CVE-2025-52565). Both.
func openSlave(master int) (slave int, err error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	return int(fd), sys(errnoOrNil(errno), "ioctl(%d, TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC) = %d", master, int(fd))
}

// terminalSettings are the settings that the terminals among the standard streams had.
var terminalSettings [3]*unix.Termios

// keepTerminals notes them. Parent.
func keepTerminals() {
	for fd := range terminalSettings {
		terminalSettings[fd], _ = unix.IoctlGetTermios(fd, unix.TCGETS)
	}
}

// restoreTerminals puts them back, whatever the command, or barco, has done to them, and however it ended. Parent.
func restoreTerminals() {
	for fd, before := range terminalSettings {
		if before != nil {
			unix.IoctlSetTermios(fd, unix.TCSETS, before) // TCSETSW would wait for a terminal that is stopped
		}
	}
	logEnd = "\n"
}

// A terminal is the parent's side of it.
type terminal struct {
	master     int
	raw        atomic.Bool
	interrupts int // Ctrl-C that nothing heard
}

// takeTerminal takes the master, and keeps the container's terminal as large as the user's. Parent.
func takeTerminal(master int) (*terminal, error) {
	t := &terminal{master: master}
	if _, err := openSlave(master); err != nil { // which stays open: while nobody has it open, reading from the master fails
		return nil, err
	}
	if err := sys(unix.SetNonblock(master, true), "fcntl(%d, F_SETFL, O_NONBLOCK)", master); err != nil {
		return nil, err
	}
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH, unix.SIGCONT) // SIGCONT: after a stop, the shell has set the terminal its own way
	go func() {
		defer lastWords()
		for range changes {
			t.resize()
			if t.raw.Load() {
				setRaw()
			}
		}
	}()
	t.resize()
	return t, nil
}

// setRaw puts the user's terminal into raw mode, as cfmakeraw(3) does. Parent.
func setRaw() error {
	raw, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err := sys(err, "ioctl(0, TCGETS)"); err != nil {
		return err
	}
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	return sys(unix.IoctlSetTermios(0, unix.TCSETS, raw), "ioctl(0, TCSETS, raw)")
}

// resize gives the container's terminal the size of the user's; the kernel tells the programs on it (SIGWINCH).
func (t *terminal) resize() {
	if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, size)
	}
}

const controlD = 4

// relay puts the user's terminal into raw mode, so that every key goes to the container, where it is decided what a key means
// (termios(3)); keepTerminals puts it back. Then it passes on what is typed and what is shown, until the command has ended and all
// that it wrote is on the screen. Parent.
func (t *terminal) relay(command *os.Process) error {
	t.raw.Store(true)
	logEnd = "\r\n"
	if err := setRaw(); err != nil {
		return err
	}
	ended, err := unix.PidfdOpen(command.Pid, 0) // readable when the command has ended
	if err := sys(err, "pidfd_open(%d, 0) = %d", command.Pid, ended); err != nil {
		return err
	}
	defer unix.Close(ended)
	ahead, _ := unix.IoctlGetInt(0, unix.TIOCINQ) // typed before that, and the kernel has made a NUL of a Ctrl-D
	var typed []byte                              // and not yet taken by the container; more is not read meanwhile
	buffer := make([]byte, 32<<10)
	for {
		poll := []unix.PollFd{{Fd: int32(t.master), Events: unix.POLLIN}, {Fd: int32(ended), Events: unix.POLLIN}, {Fd: 0, Events: unix.POLLIN}}
		if len(typed) > 0 {
			poll[0].Events |= unix.POLLOUT
			poll[2].Fd = -1
		}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return sys(err, "poll([%d, %d, 0])", t.master, ended)
		}
		if n, _ := unix.Read(t.master, buffer); n > 0 { // all there is on the screen, before the command's end counts
			os.Stdout.Write(buffer[:n])
			continue
		}
		if poll[1].Revents != 0 {
			return nil
		}
		if poll[2].Revents != 0 {
			n, err := unix.Read(0, buffer)
			if n <= 0 && err != unix.EINTR { // in raw mode that is no Ctrl-D: the user's terminal is gone
				command.Kill()
				unix.Poll(poll[1:2], -1)
				return nil
			}
			for i := range max(0, min(n, ahead)) {
				buffer[i] = cmp.Or(buffer[i], controlD)
			}
			ahead -= n
			typed = append(typed, buffer[:max(n, 0)]...)
			t.countInterrupts(command, typed)
		}
		if n, _ := unix.Write(t.master, typed); n > 0 {
			typed = typed[n:]
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
	status, _ := readFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(status) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:\t"); ok {
			bits, _ := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return bits&(1<<(s-1)) != 0
		}
	}
	return false
}
