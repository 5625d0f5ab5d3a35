package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// What barco says while it works, on standard error, in the form of the C original:
//
//	22:08:41 INFO  container.go:96: initializing socket pair...
//
// The parent writes every line. The child's come to it over the socket, so that they stand in the order in which things
// happened, and so that nothing in the container but the command itself ever writes to standard error.

type level int

const (
	levelDebug level = iota // -v: one line per system call, written by sys
	levelInfo               // the short story
	levelWarn               // the container is weaker, or different, than the reader may think
	levelError              // -q: not even warnings
)

var levelNames = [...]string{"DEBUG", "INFO", "WARN", "ERROR"}

var (
	logLevel = levelInfo
	logSink  = func(line string) { fmt.Fprint(os.Stderr, time.Now().Format(time.TimeOnly), " ", line, logEnd) }
	logEnd   = "\n" // with a carriage return while the terminal is in raw mode
)

func (config *Config) logLevel() level {
	switch {
	case config.Verbose:
		return levelDebug
	case config.Quiet:
		return levelError
	}
	return levelInfo
}

func info(format string, args ...any) { logLine(levelInfo, 2, format, args...) }
func warn(format string, args ...any) { logLine(levelWarn, 2, format, args...) }

// logLine hands one line to logSink, with the place in the source that is depth calls up.
func logLine(l level, depth int, format string, args ...any) {
	if l < logLevel {
		return
	}
	_, file, line, _ := runtime.Caller(depth)
	logSink(fmt.Sprintf("%-5s %s:%d: %s", levelNames[l], filepath.Base(file), line, fmt.Sprintf(format, args...)))
}
