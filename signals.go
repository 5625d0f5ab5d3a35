package main

import (
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// Signals (signal(7)): what is sent to barco is meant for the command.

// catchSignals has the kernel's signals queue up for forwardSignals, from the very start: a barco that dies of one leaves its
// cgroup behind. Those are left alone that say something to barco itself: about its terminal, its children, Go's own threads, and about
// a narration that nobody reads any more, which ends nothing. Parent.
func catchSignals() chan os.Signal {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	signals := make(chan os.Signal, 8)
	own := []os.Signal{unix.SIGPIPE, unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}
	for number := unix.Signal(1); number <= 64; number++ {
		if s := os.Signal(number); !slices.Contains(own, s) && !signal.Ignored(s) { // ignored: nohup(1)
			signal.Notify(signals, s)
		}
	}
	return signals
}

// ends are the signals by which somebody asks for an end.
var ends = []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL}

// forwardSignals hands signals on to the command. Process 1 of a pid namespace ignores every signal that it has no handler for
// (pid_namespaces(7)), so the second one that asks for an end gets one. Parent.
func (c *container) forwardSignals(signals <-chan os.Signal) {
	defer lastWords()
	for asked := 0; ; {
		s := (<-signals).(unix.Signal)
		if slices.Contains(ends, s) {
			asked++
		}
		switch {
		case !c.hungUp(): // no execve yet: it is still barco, and nothing in it is worth a goodbye
			c.killer.Store(int32(s))
			c.process.Kill()
			watching.release()
		case asked < 2:
			info("passing %s on to the command; a second one that asks for its end kills it", unix.SignalName(s))
			c.process.Signal(s)
		default:
			warn("%s is the second signal that asks for the end: killing the command", unix.SignalName(s))
			c.process.Kill()
		}
	}
}
