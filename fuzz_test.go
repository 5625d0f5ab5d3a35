package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"
)

// What barco reads and did not write, tried with anything that could be there. `go test` runs the examples, `make fuzz` looks for more.

// oneLine is what every answer to a wrong command line, and every line of the log, is.
func oneLine(t *testing.T, text string) {
	t.Helper()
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		t.Errorf("more than a line of text: %q", text)
	}
}

func FuzzCommandLine(f *testing.F) {
	for _, args := range []string{"-m\x00/\x00-c\x00/bin/sh", "-m/\x00-c/x\x00--memory=1g\x00-a\x00\x00-u65535", "-u", "--", "--\x00x", "--pids=99999999999999999999", "-m\x00/\x00-c\x00/x\x00--env\x00A=\xff\x00--workdir=/..", "--skip=seccomp:", "--\n", "-\x1b", "-q=\x07", "--memory=9223372036854775807t", "-m\x00/tmp\x00-c\x00/x\x00--bind=/etc:/mnt:ro\x00--overlay=1m\x00--hostname=a", "--bind=:::\x00--overlay=max"} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, joined string) {
		defer func(before level) { logLevel = before }(logLevel)
		args := slices.DeleteFunc(strings.Split(joined, "\x00"), func(arg string) bool { // these print a page
			return strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.Contains(arg, "h") || strings.HasPrefix(arg, "--help") || strings.HasPrefix(arg, "--version")
		})
		config, err := parseCommandLine(args)
		switch {
		case err != nil:
			oneLine(t, report(err))
		case config == nil || config.Check:
		case config.UID < 0 || config.UID >= idCount || !filepath.IsAbs(string(config.Root)) || !filepath.IsAbs(string(config.Argv[0])) ||
			!filepath.IsAbs(string(config.Workdir)) || config.Memory.Max < 1 || config.Pids.Max < 1 || config.Weight.Max < 1 || config.Weight.Max > 10000:
			t.Errorf("%q became %+v", args, config)
		}
	})
}

// A child that says anything at all: the parent comes to an end, believes only what was due, and prints only text.
func FuzzMessagesFromChild(f *testing.F) {
	for _, packets := range []string{"\x00m", "\x00l{\"level\":\"info\",\"text\":\"a line\"}\x01\x00m", "\x00l{\"text\":\"\\u001b]0;title\",\"where\":\"\\n\",\"step\":\"setHostname\"}", "\x00l{\"level\":7}", "\x00f{\"Step\":\"a\\nb\",\"Status\":7}", "\x00f[]", "\x01l\"first \x01\x00lsecond\"", "\x00t", "x", "\x00c{}", "\x00x\x01\x00m", "\x01m", "\x00\x00"} {
		f.Add(packets, false)
		f.Add(packets, true)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		f.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packets string, rights bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		before := descriptors(t)
		var control []byte
		if rights { // more than one, which nobody asked for
			control = unix.UnixRights(int(null.Fd()), int(null.Fd()))
		}
		for packet := range strings.SplitSeq(packets, "\x01\x00") {
			unix.Sendmsg(pair[1], []byte(packet), control, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
		unix.Close(pair[1])
		defer func(write func(string), color bool) { writeLog, logColor = write, color }(writeLog, logColor)
		logColor = false
		writeLog = func(line string) { oneLine(t, line) }
		c := &container{socket: socket(pair[0]), config: &Config{Terminal: rights}, process: gone.Process}
		err = c.expect(messageMapIDs)
		if err != nil {
			for line := range strings.Lines(report(err)) {
				oneLine(t, strings.TrimSuffix(line, "\n"))
			}
		} else if !strings.Contains(packets, "m") {
			t.Errorf("%q was taken for the message that was due", packets)
		}
		if failure, ok := err.(*Failure); ok && (failure.Step == "" || failure.Status != 0 && (failure.Status < statusBarcoFailed || failure.Status > statusNotFound)) {
			t.Errorf("%q became %+v", packets, failure)
		}
		unix.Close(pair[0])
		if after := descriptors(t); after != before-2 {
			t.Errorf("%q: %d descriptors before, %d after", packets, before-2, after)
		}
	})
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

// What is sent arrives, whatever bytes it is made of, and whatever its length.
func FuzzConfigurationArrives(f *testing.F) {
	f.Add("/bin/echo", "\xff\x00\n", 3)
	f.Add("", strings.Repeat("long ", 1000), 40) // more than one packet
	f.Fuzz(func(t *testing.T, root, argument string, times int) {
		sent := Config{Root: bytesText(root), Hostname: "h", Argv: slices.Repeat([]bytesText{bytesText(argument)}, max(0, min(times, 40)))}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		go func() {
			socket(pair[0]).send(messageConfig, sent)
			unix.Close(pair[0])
		}()
		defer unix.Close(pair[1])
		c := &child{socket: socket(pair[1])}
		if err := c.receiveConfig(); err != nil || c.Root != sent.Root || !slices.Equal(c.Argv, sent.Argv) {
			t.Errorf("%v: sent %+v, got %+v", err, sent, c.Config)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/a b\tc\\d\ne")
	f.Add("1 1 0:1 / /a rw shared:7 - tmpfs cgroup2 rw\n", "/#")
	f.Add(" - cgroup2 \n - \n\n1 2 3 4  - cgroup2 ", "/")
	f.Fuzz(func(t *testing.T, text, path string) {
		mountedBelow(path, text)
		escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path) // as the kernel does
		got := parseMountinfo("22 27 0:21 / /proc rw - proc proc rw\n35 24 0:30 / " + escaped + " rw,relatime shared:9 - cgroup2 none rw\n")
		if want := (mountEntry{path, "rw,relatime shared:9", "cgroup2"}); len(got) != 2 || got[1] != want {
			t.Errorf("%+v became %+v", want, got)
		}
	})
}

func FuzzCgroupFiles(f *testing.F) {
	f.Add("12:cpuset:/\n0::/user.slice/a b\n", "low 0\noom_kill 3\n")
	f.Add("0::\n0::/", "oom_kill")
	f.Add("", "")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cgroups, events string) {
		if path := cgroup2Path(cgroups); path != "" && !strings.Contains(cgroups, "0::"+path) {
			t.Errorf("%q became %q", cgroups, path)
		}
		must(t, os.WriteFile(dir+"/memory.events", []byte(events), 0o644))
		group := &cgroup{path: dir}
		if count := group.event("memory.events", "oom_kill"); count != 0 && !strings.Contains(events, "oom_kill") {
			t.Errorf("%q counts %d", events, count)
		}
		formatSize(events)
	})
}

// A program in DIR is made by who knows whom.
func FuzzProgram(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add(dynamicProgram(make([]byte, 64)))
	f.Fuzz(func(t *testing.T, head []byte) { readELF(head) })
}
