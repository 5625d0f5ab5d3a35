package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A screen is a terminal with a barco on it, as a person has it: what is typed goes in, what is shown can be waited for.
type screen struct {
	t        *testing.T
	cmd      *exec.Cmd
	keyboard *os.File // the master
	terminal *os.File // the slave, as the user's shell would have it
	before   unix.Termios
	text     bytes.Buffer // what nobody has waited for yet
	shown    string       // all of it
}

// onScreen starts a command in a session of its own on a new terminal.
func onScreen(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	if cmd.Stdin == nil {
		cmd.Stdin = terminal
	}
	if cmd.Stdout == nil {
		cmd.Stdout = terminal
	}
	if cmd.Stderr == nil {
		cmd.Stderr = terminal
	}
	ctty := 0 // which of the command's descriptors is the terminal
	if cmd.Stdin != terminal {
		ctty = 3
		cmd.ExtraFiles = []*os.File{terminal}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: ctty}
	s := &screen{t: t, cmd: cmd, keyboard: master, terminal: terminal}
	s.before = *s.settings()
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); master.Close(); terminal.Close() })
	return s
}

func (s *screen) typeText(text string) {
	s.t.Helper()
	_, err := s.keyboard.WriteString(text)
	must(s.t, err)
}

// waitFor reads the screen until the text is on it.
func (s *screen) waitFor(text string) {
	s.t.Helper()
	buffer := make([]byte, 4096)
	defer time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("no %q on the screen, which shows %q", text, s.text.String())) }).Stop()
	for !strings.Contains(s.text.String(), text) {
		n, err := s.keyboard.Read(buffer)
		if err != nil {
			s.t.Fatalf("%v while waiting for %q; the screen shows\n%s", err, text, s.text.String())
		}
		s.text.Write(buffer[:n])
		s.shown += string(buffer[:n])
	}
	_, rest, _ := strings.Cut(s.text.String(), text)
	s.text.Reset()
	s.text.WriteString(rest)
}

// end waits for the command's end and returns its status. The terminal must be as it was.
func (s *screen) end() int {
	s.t.Helper()
	s.cmd.Wait()
	if after := *s.settings(); after != s.before {
		s.t.Errorf("the terminal was left as %+v, it was %+v", after, s.before)
	}
	return s.cmd.ProcessState.ExitCode()
}

// endsWith waits for the command's end, which must have that status.
func (s *screen) endsWith(status int) {
	s.t.Helper()
	if got := s.end(); got != status {
		s.t.Errorf("status %d, want %d", got, status)
	}
}

func (s *screen) settings() *unix.Termios {
	s.t.Helper()
	settings, err := unix.IoctlGetTermios(int(s.terminal.Fd()), unix.TCGETS)
	must(s.t, err)
	return settings
}

// What a person sees: a shell on a terminal, with job control, Ctrl-C, Ctrl-Z, Ctrl-D and an exit status.
func TestShellOnATerminal(t *testing.T) {
	for name, root := range roots(t) {
		t.Run(name, func(t *testing.T) {
			s := onScreen(t, command("-q", "-m", root, "-c", "/bin/sh", "-a", "-i", "--env", "PS1=$ "))
			s.waitFor("$ ")
			s.typeText("tty; stty size\r")
			s.waitFor("/dev/pts/0")
			s.waitFor("24 80")
			must(t, unix.IoctlSetWinsize(int(s.keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100}))
			s.typeText("while [ \"$(stty size)\" != '30 100' ]; do :; done; echo size follow''ed\r")
			s.waitFor("size followed")
			s.waitFor("$ ")
			const job = `sh -c 'echo go""ing; read x'` // one process from start to end: none is forked just when the key is hit
			s.typeText(job + "\r")
			s.waitFor("going")
			s.typeText("\x1a") // Ctrl-Z
			s.waitFor("Stopped")
			s.typeText("kill -9 %1; " + job + "\r")
			s.waitFor("going")
			s.typeText("\x03\r") // Ctrl-C, which also throws away what is on its way to the screen: the shell's next prompt, if it is fast
			s.waitFor("$ ")
			s.typeText("echo to std''out > /dev/stdout; cat > /dev/null\r")
			s.waitFor("to stdout")
			s.typeText("\x04echo $((6*7))\r") // Ctrl-D
			s.waitFor("42")
			s.typeText("(exit 3)\r")
			s.typeText("exit\r")
			s.endsWith(3)
			for _, complaint := range []string{"job control", "can't access tty", "cannot set terminal", "tty process group"} {
				if strings.Contains(s.text.String(), complaint) {
					t.Errorf("the shell complains: %s", s.text.String())
				}
			}
		})
	}
}

// Nothing in the container hears a Ctrl-C to a process 1 without a handler: the first is explained, the second ends it.
func TestCtrlCTwice(t *testing.T) {
	s := onScreen(t, command("-m", busyboxRoot(t), "-c", "/bin/cat"))
	s.typeText("one\r")
	s.waitFor("one\r\none\r\n") // typed by us, and by cat, which is there then
	s.typeText("\x03")
	s.waitFor("no handler for SIGINT")
	s.typeText("\x03")
	s.waitFor("killing the command")
	s.endsWith(137)
}

// The terminal belongs to the command's user, who can open it anew.
func TestTerminalOfAUser(t *testing.T) {
	s := onScreen(t, command("-q", "-m", busyboxRoot(t), "-u", "1000", "-c", "/bin/sh", "--", "-c", "echo he''re > /dev/stdout; exit 4"))
	s.waitFor("here")
	s.endsWith(4)
}

// What is typed before the terminal is the container's, script(1) with no input for one, is not lost: nor is its end.
func TestTypedAhead(t *testing.T) {
	s := onScreen(t, command("-q", "-m", busyboxRoot(t), "-c", "/bin/cat"))
	s.typeText("some\rline\r\x04")
	s.waitFor("line")
	s.endsWith(0)
}

// A command that hears Ctrl-C may have as many as it likes.
func TestCtrlCHeard(t *testing.T) {
	s := onScreen(t, command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "trap 'n=$((n+1)); [ $n = 3 ] && exit 5' INT; echo go''ing; while :; do sleep 0.01; echo heard $n; done"))
	s.waitFor("going")
	for i := 1; i < 3; i++ {
		s.typeText("\x03")
		s.waitFor(fmt.Sprint("heard ", i))
	}
	s.typeText("\x03")
	s.endsWith(5)
}

// The terminal is as it was before, whatever ends the container.
func TestTerminalIsRestored(t *testing.T) {
	root := busyboxRoot(t)
	for name, end := range map[string]func(s *screen){
		"SIGKILL of the command":       func(s *screen) { unix.Kill(childOf(s.t, s.cmd.Process.Pid), unix.SIGKILL) },
		"SIGTERM twice":                func(s *screen) { s.cmd.Process.Signal(unix.SIGTERM); s.cmd.Process.Signal(unix.SIGINT) },
		"SIGABRT twice":                func(s *screen) { s.cmd.Process.Signal(unix.SIGABRT); s.cmd.Process.Signal(unix.SIGQUIT) },
		"a command that leaves it raw": func(s *screen) { s.typeText("stty raw -echo; exit\r") },
		"a command that leaves it alone, and comes back": func(s *screen) {
			s.typeText("exec </dev/null >/dev/null 2>&1; cat /bin/busybox > /dev/tty; exit\r")
			go s.keyboard.WriteTo(new(bytes.Buffer))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := onScreen(t, command("-q", "-m", root, "-c", "/bin/sh", "--env", "PS1=$ "))
			s.waitFor("$ ")
			end(s)
			s.end()
		})
	}
	// A command that was given the terminal as its standard input, and nothing of its own.
	cmd := command("-q", "-m", root, "-c", "/bin/stty", "-a", "raw", "-a", "-echo")
	cmd.Stdout = new(bytes.Buffer)
	if s := onScreen(t, cmd); s.end() != 0 {
		t.Error("stty failed")
	}
}

// When the terminal goes away, as with a lost connection, so does the container.
func TestHangUp(t *testing.T) {
	s := onScreen(t, command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "echo go''ing; exec sleep 1000"))
	s.waitFor("going")
	s.terminal.Close()
	s.keyboard.Close()
	s.cmd.Wait()
}

// A container that was not given the terminal cannot reach it: not by /dev/tty, not by a process group.
func TestTerminalOutOfReach(t *testing.T) {
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "stty -F /dev/tty -echo; read x < /dev/tty; cut -d ' ' -f 5,6 /proc/1/stat")
	var output bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(nil), &output, &output
	s := onScreen(t, cmd)
	s.end()
	if got := output.String(); strings.Count(got, "No such device or address") != 2 || !strings.HasSuffix(got, "\n1 1\n") {
		t.Errorf("it said %s", got)
	}
}

// Programs that paint the whole screen, and what repairs it.
func TestFullScreenPrograms(t *testing.T) {
	root := busyboxRoot(t)
	for _, name := range []string{"vi", "top", "reset", "ps"} {
		os.Symlink("busybox", root+"/bin/"+name) // one of them is there
	}
	for _, args := range [][]string{nil, {"--init"}} {
		if args != nil {
			needStatic(t)
		}
		s := onScreen(t, command(append([]string{"-q", "-m", root, "--idmap", "-c", "/bin/sh", "--env", "PS1=$ "}, args...)...))
		s.waitFor("$ ")
		s.typeText("vi /file\r")
		s.waitFor("/file 1/1") // its last line
		s.typeText("iwritten with vi")
		s.waitFor("written with vi")
		s.typeText("\x1b")
		s.waitFor("- /file [Modified]") // else it would take ESC and the next key for one key
		s.typeText(":wq\r")
		s.waitFor("$ ")
		s.typeText("cat /file; top\r")
		s.waitFor("written with vi")
		s.waitFor("Mem:")
		s.waitFor("COMMAND")
		s.typeText("q")
		s.waitFor("$ ")
		s.typeText("stty -echo -icanon; reset; stty -a | grep -c ' echo '\r")
		s.waitFor("1")
		s.waitFor("$ ")
		s.typeText("rm /file; exit 0\r")
		s.endsWith(0)
	}
}

// --tty=false leaves the command on the user's streams, though they are a terminal.
func TestNoTerminalWanted(t *testing.T) {
	s := onScreen(t, command("-q", "--tty=false", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "ls /dev/pts; echo done"))
	s.waitFor("ptmx")
	s.waitFor("done")
	if status := s.end(); status != 0 || strings.Contains(s.shown, "0") {
		t.Errorf("status %d, and it showed %q", status, s.shown)
	}
}
