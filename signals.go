package main

import (
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// Signals (signal(7)): what is sent to barco is meant for the command.
//
// Chapter: docs/13-signals-and-cleaning-up.md

// catchSignals has the kernel's signals queue up for forwardSignals, from the very start: a barco that dies of one leaves its
// cgroup behind. To begin with, those by which people and their programs end others. A SIGPIPE, about a narration that nobody reads any
// more, ends nothing. Parent.
func catchSignals() chan os.Signal {
	signals := make(chan os.Signal, 8)
	catch(make(chan os.Signal, 1), unix.SIGPIPE)
	catch(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	return signals
}

// catchOthers adds the rest of those that have names, while the child starts. Some are left alone, as they say something to barco
// itself: about its terminal, its children, Go's own threads. Parent.
func catchOthers(signals chan os.Signal) {
	catch(signals, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGUSR1, unix.SIGSEGV, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGSTKFLT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGPROF, unix.SIGIO, unix.SIGPWR, unix.SIGSYS)
}

// catchRealTime adds those that have numbers alone (signal(7), Real-time signals). They are many, hardly anybody sends them, and nobody
// to a command that does not run yet: so they come last. Parent.
func catchRealTime(signals chan os.Signal) {
	var numbers []unix.Signal
	for s := unix.Signal(34); s <= 64; s++ {
		numbers = append(numbers, s)
	}
	catch(signals, numbers...)
}

// catch has signals sent to a channel, but for those that whoever started barco ignores, as nohup(1) does. For each, Go's runtime goes
// to another thread and back; and twice that way from a goroutine that is locked to its thread, as main is. With all 64 signals
// that took 5 ms, as long as two starts of Go. Both.
func catch(channel chan os.Signal, signals ...unix.Signal) {
	done := make(chan struct{})
	go func() {
		defer lastWords()
		for _, s := range signals {
			if !signal.Ignored(s) {
				signal.Notify(channel, s)
			}
		}
		close(done)
	}()
	<-done
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
