package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// What barco says while it works, on standard error, in the form of the C original:
//
//	22:08:41 INFO  container.go:96: initializing socket pair...
//
// Two functions are all of it. info says what comes next, one line for each step: that is the short story. sys (errors.go) is told
// of each system call, and with -v gives it a line of its own. With -v and --step everybody waits at each info line, while the
// parent looks at what the kernel shows of the container now, and did not at the last: evidence.go.
//
// The parent writes every line. The child's come to it over the socket, so that they stand in the order in which things
// happened, and so that nothing in the container but the command itself ever writes to standard error.
//
// Chapter: docs/04-hostname.md

type level int

const (
	levelDebug level = iota // -v: one line per system call
	levelInfo               // the short story
	levelWarn               // the container is weaker, or different, than the reader may think
	levelError              // -q: not even warnings
)

var levelNames = [...]string{"DEBUG", "INFO", "WARN", "ERROR"}

// An entry is one line, on its way to the screen.
type entry struct {
	Time  string `json:"time,omitempty"`
	Level level  `json:"level"`
	Side  string `json:"side"`  // "parent" or "child"
	Where string `json:"where"` // file.go:line
	Text  string `json:"text"`
	Step  string `json:"step,omitempty"` // of info: the function that says it
	Name  string `json:"host,omitempty"` // the host's name as the child sees it, which the parent cannot see
	See   string `json:"see,omitempty"`  // man pages, and the chapter
}

// MarshalText has JSON say "info", and not 1.
func (l level) MarshalText() ([]byte, error) { return []byte(strings.ToLower(levelNames[l])), nil }

// UnmarshalText reads that again.
func (l *level) UnmarshalText(text []byte) error {
	for i, name := range levelNames {
		if strings.EqualFold(name, string(text)) {
			*l = level(i)
			return nil
		}
	}
	return fmt.Errorf("%q is no level", text)
}

var (
	logLevel = levelInfo
	logSink  func(entry) // the child's sends it to the parent; nil: say
	writeLog = func(line string) { fmt.Fprint(os.Stderr, line, logEnd) }
	logEnd   = "\n" // with a carriage return while the terminal is in raw mode
	logJSON  = false
	logColor = isTerminal(2) && os.Getenv("NO_COLOR") == "" // no-color.org
)

// narrates says whether the steps are taken one by one, with a look at the kernel before each.
func (config *Config) narrates() bool { return config.Verbose || config.Step }

// startLog has the flags that are about the log take effect. Both.
func (config *Config) startLog() {
	switch {
	case config.Verbose:
		logLevel = levelDebug
	case config.Quiet:
		logLevel = levelError
	}
	logJSON = config.LogJSON
}

func info(format string, args ...any) { logLine(levelInfo, 2, format, args...) }
func warn(format string, args ...any) { logLine(levelWarn, 2, format, args...) }

// logLine hands one line to logSink, with the place in the source that is depth calls up.
func logLine(l level, depth int, format string, args ...any) {
	if l < logLevel {
		return
	}
	program, file, line, _ := runtime.Caller(depth)
	e := entry{Level: l, Side: "parent", Where: fmt.Sprintf("%s:%d", filepath.Base(file), line), Text: fmt.Sprintf(format, args...)}
	if l == levelInfo {
		name := runtime.FuncForPC(program).Name()
		e.Step = name[strings.LastIndexByte(name, '.')+1:]
	}
	if logSink != nil {
		logSink(e)
		return
	}
	say(e)
}

// say writes an entry to standard error; with a watcher, first what has changed since the last step, and then it waits. Parent.
func say(e entry) {
	e.Time = time.Now().Format(time.TimeOnly)
	lesson, isStep := lessons[e.Step]
	isStep = isStep && watching != nil
	if isStep {
		watching.changes(e.Name)
		file, _, _ := strings.Cut(e.Where, ":")
		e.See = lesson.see + ", docs/" + chapters[file]
	}
	side := ""
	if watching != nil {
		side = fmt.Sprintf("%-7s", e.Side)
	}
	if logJSON {
		writeJSON(e)
	} else {
		level := fmt.Sprintf("%-5s", levelNames[e.Level])
		if logColor {
			level = [...]string{"\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31m"}[e.Level] + level + "\x1b[0m"
		}
		before := e.Time + " " + level + " "
		for _, line := range wrap(fmt.Sprintf("%s%s: %s", side, e.Where, e.Text)) {
			writeLog(before + line)
			before = indent
		}
		if e.See != "" {
			for _, line := range wrap("read on: " + e.See) {
				writeLog(indent + line)
			}
		}
	}
	if isStep {
		watching.pause(e)
	}
}

func writeJSON(value any) {
	line, _ := json.Marshal(value)
	writeLog(string(line))
}

// indent is as wide as what stands before a line: the time and the level.
const indent = "               "

// wrap breaks text into lines that end before column 100, each behind an indent. Without a watcher lines are left whole, for grep.
func wrap(text string) (lines []string) {
	if watching == nil {
		return []string{text}
	}
	for width := 100 - len(indent); len(text) > width; {
		end := strings.LastIndexAny(text[:width], " |,")
		if end < width/2 {
			break // a long path
		}
		lines = append(lines, text[:end+1])
		text = "    " + strings.TrimPrefix(text[end+1:], " ")
	}
	return append(lines, text)
}
