package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// narrated runs a container whose command waits until barco has said that it runs, and returns what barco said.
func narrated(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	must(t, err)
	reader, writer, err := os.Pipe()
	must(t, err)
	cmd.Stderr = writer
	must(t, cmd.Start())
	writer.Close()
	var said strings.Builder
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), "the container is /bin/sh now") {
			stdin.Close()
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	return said.String()
}

// classic is the run that narration is shown with.
func classic(t *testing.T, args ...string) *exec.Cmd {
	return command(append(args, "-u", "0", "-m", userRoot(t), "-c", "/bin/sh", "--", "-c", "read x; true")...)
}

// What -v tells: both sides, every step, what the kernel shows, and no line longer than a page is wide.
func TestNarration(t *testing.T) {
	said := narrated(t, classic(t, "-v"))
	for _, line := range strings.Split(said, "\n") {
		if len([]rune(line)) > 100 && !strings.Contains(line, "/tmp/Test") { // a path is left whole
			t.Errorf("longer than 100 columns: %s", line)
		}
	}
	for _, want := range []string{
		`DEBUG parent container\.go:\d+: clone\(CLONE_NEWUSER\|(?s:.*)\) = \d+\n`, `now user namespace: (\d+) -> \d+\n`, `now uts namespace: \d+ -> \d+\n`,
		`now pid: \d+ -> \d+, inside 1\n`, `now uid_map: none -> 0 524288 65536\n`, `now host name: \S+ -> barcontainer\n`,
		`INFO  child  hostname\.go:\d+: setting the host name to barcontainer\.\.\.\n               read on: uts_namespaces\(7\), sethostname\(2\), docs/04-hostname\.md\n\S+ DEBUG child  hostname\.go:\d+: sethostname\("barcontainer"\) = 0\n`,
		`DEBUG parent \S+ sendmsg\(\d+, configuration\)`, `DEBUG parent \S+ recvmsg\(\d+\) = map my ids`, `DEBUG parent \S+ sendmsg\(\d+, mapped\)`, `DEBUG parent \S+ recvmsg\(\d+\) = executing`, `DEBUG parent \S+ recvmsg\(\d+\) = end of file`,
		`now CapBnd: all( but sys_resource| 41)? -> chown dac_override fowner kill setgid setuid`, `now CapAmb: all \d+ -> none`, `now Seccomp_filters: 0 -> 1\n               now filter instructions: none -> \d+\n`,
		`  \+ /dev/null devtmpfs`, `  - and \d+ more|  - / `, `the container is /bin/sh now\n`,
	} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("it does not say %s", want)
		}
	}
	if t.Failed() {
		t.Log(said)
	}
	own, err := os.Readlink("/proc/self/ns/user")
	must(t, err)
	if match := regexp.MustCompile(`now user namespace: (\d+) ->`).FindStringSubmatch(said); match == nil || "user:["+match[1]+"]" != own {
		t.Errorf("before, the user namespace was %s, and it says %q", own, match)
	}
}

// The narration has every system call of these kinds that strace(1) sees, in its order, and no others.
func TestNarrationIsComplete(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Log("not here: no strace, which make test installs")
		return
	}
	kinds := "clone|clone3|setns|unshare|mount|umount2|pivot_root|sethostname|setuid|setgid|setresuid|setresgid|setfsuid|setfsgid|setgroups|prctl|capset|seccomp|execve"
	trace := t.TempDir() + "/trace"
	cmd := classic(t, "-v")
	cmd.Args = append([]string{"strace", "-f", "-o", trace, "-e", "trace=" + strings.ReplaceAll(kinds, "|", ","), "/proc/self/exe"}, cmd.Args[1:]...)
	exe, err := os.Executable()
	must(t, err)
	cmd.Args[6] = exe
	cmd.Path, err = exec.LookPath("strace")
	must(t, err)
	said := narrated(t, cmd)
	noise := regexp.MustCompile(`CLONE_THREAD|CLONE_VFORK|PR_SET_NAME|PR_SET_VMA|PR_CAPBSET_READ|PR_CAP_AMBIENT_IS_SET|PR_GET|PR_SET_SECCOMP, 0x|EFAULT|SECCOMP_GET|EINVAL|resumed|exited`)
	var seen []string
	first := true
	for line := range strings.Lines(readAll(t, trace)) {
		match := regexp.MustCompile(`^\d+ +(` + kinds + `)\((.*)`).FindStringSubmatch(line)
		if match == nil || noise.MatchString(line) {
			continue
		}
		if first { // strace's own execve of barco
			first = false
			continue
		}
		seen = append(seen, strings.Replace(match[1], "clone3", "clone", 1))
	}
	var told []string
	for _, match := range regexp.MustCompile(`(?m)DEBUG (?:parent|child ) \S+ (`+kinds+`)\(`).FindAllStringSubmatch(said, -1) {
		told = append(told, match[1])
	}
	if got, want := strings.Join(slices.Compact(told), " "), strings.Join(slices.Compact(seen), " "); got != want {
		t.Errorf("barco tells\n%s\nstrace sees\n%s", got, want)
	}
	if len(told) != len(seen) {
		t.Logf("of each run of the same calls one may stand for many: %d told, %d seen", len(told), len(seen))
	}
}

// One JSON object a line, with nothing cut.
func TestLogJSON(t *testing.T) {
	changed, steps := map[string]bool{}, 0
	for line := range strings.Lines(narrated(t, classic(t, "-v", "--log-format", "json"))) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if name, ok := object["changed"].(string); ok {
			changed[name] = true
			continue
		}
		for _, key := range []string{"time", "level", "side", "where", "text"} {
			if object[key] == nil || object[key] == "" {
				t.Errorf("no %s: %s", key, line)
			}
		}
		if object["see"] != nil {
			steps++
		}
	}
	if !changed["uid_map"] || !changed["mounts"] || !changed["host name"] || steps < 15 {
		t.Errorf("%v changed, in %d steps", changed, steps)
	}
	r := barco(t, "--log-format", "json", "-m", busyboxRoot(t), "-c", "/bin/true")
	for line := range strings.Lines(r.stderr) {
		if !json.Valid([]byte(line)) {
			t.Errorf("without -v: %s", line)
		}
	}
}

// --step stops before each step, names what to look at, and that can be looked at.
func TestStep(t *testing.T) {
	s := onScreen(t, command("--step", "-m", userRoot(t), "-c", "/bin/sh", "--", "-c", "echo the command; exit 9"))
	looked := map[string]bool{}
	for range 30 {
		s.waitFor("look at: ")
		s.waitFor("Enter goes on, Ctrl-C ends it")
		look, _, _ := strings.Cut(s.shown[strings.LastIndex(s.shown, "look at: ")+9:], "\r\n")
		for _, name := range []string{"ls", "cat", "grep", "readlink", "lsns", "nsenter"} {
			if _, err := exec.LookPath(name); err != nil || !strings.HasPrefix(look, name+" ") {
				continue
			}
			out, err := exec.Command("sh", "-c", look).CombinedOutput()
			if err != nil && name != "grep" { // which finds no shared mounts once they are private
				t.Errorf("%s: %v: %s", look, err, out)
			}
			looked[name] = true
		}
		s.typeText("\r")
		if strings.Contains(look, "/exe; grep Cap") { // the last
			break
		}
	}
	s.waitFor("the command")
	s.endsWith(9)
	if !looked["cat"] || !looked["ls"] || !strings.Contains(s.shown, "now host name: ") {
		t.Errorf("looked with %v; it showed\n%s", looked, s.shown)
	}
	before := hostState()
	for stop := range 4 {
		s := onScreen(t, command("--step", "-m", userRoot(t), "-c", "/bin/true"))
		for range stop * 3 {
			s.waitFor("Ctrl-C ends it")
			s.typeText("\r")
		}
		s.waitFor("Ctrl-C ends it")
		s.typeText("\x03")
		if status := s.end(); status != 130 {
			t.Errorf("Ctrl-C at stop %d: status %d, and it showed\n%s", stop*3, status, s.shown)
		}
	}
	sameHost(t, before)
	r := barco(t, "--step", "-m", "/", "-c", "/bin/true")
	if r.status != statusBarcoFailed || !strings.Contains(r.stderr, "--step: standard input and error are not a terminal") {
		t.Errorf("without a terminal: %+v", r)
	}
}

// Colour is for terminals, and for those who have not asked for none.
func TestColor(t *testing.T) {
	root := userRoot(t)
	colored := func(variable string) bool {
		cmd := command("-m", root, "-c", "/bin/true")
		cmd.Env = append(cmd.Env, variable)
		s := onScreen(t, cmd)
		s.waitFor("has ended with status 0")
		s.end()
		return strings.Contains(s.shown, "\x1b[32mINFO \x1b[0m")
	}
	if !colored("X=") || colored("NO_COLOR=1") || strings.Contains(barco(t, "-m", root, "-c", "/bin/true").stderr, "\x1b") {
		t.Error("colour where there should be none, or none where there should be")
	}
}

// masked leaves out of a narration what is new in every run.
func maskedRun(text string) string {
	for _, mask := range []struct{ find, with string }{
		{`(?m)^\d\d:\d\d:\d\d`, "00:00:00"}, {`\b402653\d{4}\b`, "INODE"}, {`barco-\d+-`, "barco-PID-"}, {`/proc/\d+/`, "/proc/PID/"},
		{`process \d+ here`, "process PID here"}, {`now pid: \d+ -> \d+`, "now pid: PID -> PID"}, {`\) = \d{3,}\n`, ") = PID\n"},
		{`/tmp/Test\w+/001`, "ROOT"}, {`\s+`, " "}, // lines break elsewhere, with a longer pid
	} {
		text = regexp.MustCompile(mask.find).ReplaceAllString(text, mask.with)
	}
	return text
}

// docs/narration.md shows a whole run, on the machine that vm.sh makes: a fresh one says the same. `make docs` refreshes the page.
func TestClassicRun(t *testing.T) {
	if os.Getenv(initramfsVariable) == "" {
		t.Log("not here: each machine has other mounts; the page shows the VM's")
		return
	}
	page := readAll(t, "/docs/narration.md")
	root := "/tmp/root"
	must(t, os.Rename(userRoot(t), root))
	defer os.RemoveAll(root)
	barco(t, "-q", "-m", root, "-c", "/bin/true") // what only the first one on a machine does: hand down the controllers
	cmd := command("-v", "-u", "0", "-m", root, "-c", "/bin/sh", "--", "-c", "read x; true")
	fresh := narrated(t, cmd)
	_, shown, _ := strings.Cut(page, "```text\n")
	shown, _, _ = strings.Cut(shown, "```")
	if maskedRun(shown) == maskedRun(fresh) {
		return
	}
	fmt.Printf("--- narration\n%s--- end\n", fresh)
	want, got := strings.Fields(maskedRun(shown)), strings.Fields(maskedRun(fresh))
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Errorf("docs/narration.md is stale, make docs refreshes it: at word %d it has %q, a fresh run says %q", i, want[max(0, i-5):min(len(want), i+10)], got[max(0, i-5):min(len(got), i+10)])
			return
		}
	}
	t.Errorf("docs/narration.md is stale, make docs refreshes it: it has %d words, a fresh run %d", len(want), len(got))
}

// What is not told costs nothing worth speaking of.
func BenchmarkNotNarrated(b *testing.B) {
	for b.Loop() {
		sys(nil, "mount(%q, %q, %q, MS_REC|MS_PRIVATE)", "", "/", "")
	}
}
