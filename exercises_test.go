package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The exercises of docs/exercises.md check themselves (exercises.sh). Their model answers are right, and what learners also try is
// wrong, for the reason that it is wrong for.

// answers are the files of testdata/answers, and what the checker says of each.
var answers = []struct{ file, want string }{
	{"1", "right: the host name is crab-"},
	{"1.wrong", "wrong: the host name is barcontainer inside"},
	{"1.wrong2", "wrong: the host name is crab-.* the machine's own too"},
	{"1.wrong3", "wrong: no container .* ended, with status 0\n    right: crab-"}, // it only says so
	{"2", "right: uid "},
	{"2.wrong", "wrong: the command is uid 524288 here"},
	{"2.wrong2", "wrong: .* not started by root"},
	{"3", "right: "},
	{"3.wrong", "wrong: .* rootfs has changed on disk"},
	{"3.wrong2", `wrong: /etc/motd inside is ""`},
	{"4", "right: lo's MTU is "},
	{"4.wrong", "wrong: lo's MTU is 65536 inside"},
	{"4.wrong2", "wrong: .* capabilities .* beyond the usual, and 1000 is enough"},
	{"5", "right: process "},
	{"5.wrong", "wrong: process .* is barco itself"},
	{"5.wrong2", "wrong: 1 is its number inside"},
	{"6", "right: the container may have |right: this machine has no cgroup v2"},
	{"6.wrong", "wrong: the container may have .* 64 processes|wrong: barco was asked for these limits: --memory"},
	{"6.wrong2", "wrong: the container may have |wrong: a container runs, without those limits"},
	{"7", "right: a second host name, with one capability more"},
	{"7.other", "right: a second host name, .* no capability but those of a new user namespace"},
	{"7.wrong", "wrong: it works, but the seccomp filter is gone"},
	{"7.wrong2", "wrong: no process .*\n    hostname: sethostname: Operation not permitted"},
	{"7.wrong3", "wrong: process 1 has the new name as well"},
	{"8", "right: SIGTERM "},
	{"8.wrong", "wrong: barco got SIGTERM, .* still runs"},
	{"8.wrong2", "wrong: .* status is 0"},
	{"9.patch", "right: with --hostname "},
	{"9.wrong.patch", "wrong: with --hostname "},
	{"10.patch", "right: /dev/kmsg |not here: "},
	{"10.wrong.patch", "wrong: .*\n.*is not the character device|not here: "},
	{"10.wrong2.patch", "wrong: /dev/kmsg inside is a symbolic link|not here: "},
	{"11.patch", "right: "},
	{"11.wrong.patch", "wrong: --cap-add CAP_NET_RAW does not give it back"},
	{"12.patch", "right: chroot is refused"},
	{"12.wrong.patch", "wrong: chroot is refused, but by the capabilities"},
	{"12.wrong2.patch", "wrong: the source does not compile: "},
	// Nothing at all.
	{"1.none", "wrong: there is no answer"}, {"2.none", "wrong: there is no answer"}, {"3.none", "wrong: there is no answer"},
	{"4.none", "wrong: there is no answer"}, {"5.none", "wrong: there is no answer"}, {"6.none", "wrong: there is no answer"},
	{"7.none", "wrong: there is no answer"}, {"8.none", "wrong: there is no answer"}, {"9.none", "wrong: with --hostname "},
	{"10.none", "wrong: there is no /dev/kmsg inside|not here: "}, {"11.none", "wrong: the command still has CAP_NET_RAW"},
	{"12.none", "wrong: chroot works"},
}

func TestExercises(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has no sources, and no util-linux")
		return
	}
	needStatic(t)
	exe, err := os.Executable()
	must(t, err)
	rootfs := t.TempDir() + "/rootfs"
	if r := finish(t, exec.Command("./rootfs.sh", rootfs)); r.status != 0 {
		t.Fatal(r.stderr)
	}
	tried := map[string]bool{}
	for _, answer := range answers {
		tried[answer.file] = true
		t.Run(answer.file, func(t *testing.T) {
			t.Parallel()
			number, kind, _ := strings.Cut(answer.file, ".")
			dir := t.TempDir() // in the place of answers
			switch {
			case kind == "none":
				must(t, os.WriteFile(dir+"/"+number, []byte("# nothing yet\n"), 0o644))
			case strings.HasSuffix(kind, "patch"):
				copyFile(t, "testdata/answers/"+answer.file, dir+"/"+number+".patch")
			default:
				copyFile(t, "testdata/answers/"+answer.file, dir+"/"+number)
			}
			cmd := exec.Command("./exercises.sh", number)
			tmp := t.TempDir()
			must(t, os.Chmod(filepath.Dir(tmp), 0o755)) // one answer gives up root
			cmd.Env = append(os.Environ(), "ANSWERS="+dir, "BARCO="+exe, "ROOTFS="+rootfs, runAsBarco+"=1", "TMPDIR="+tmp)
			if !strings.HasPrefix(answer.want, "right") {
				cmd.Env = append(cmd.Env, "PATIENCE=20")
			}
			r := finish(t, cmd)
			if !regexp.MustCompile("^(" + answer.want + ")").MatchString(r.stdout) {
				t.Errorf("it says\n%s%s\nwant %s", r.stdout, r.stderr, answer.want)
			}
			verdict, _, _ := strings.Cut(r.stdout, ":")
			if want := map[string]int{"right": 0, "wrong": 1, "not here": 2}[verdict]; r.status != want {
				t.Errorf("%s, and status %d", verdict, r.status)
			}
			if verdict == "wrong" && !regexp.MustCompile("\nhint: |docs/exercises.md|does not compile").MatchString(r.stdout) {
				t.Errorf("no hint: %s", r.stdout)
			}
			left, _ := filepath.Glob(tmp + "/*")
			if left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	for _, path := range globbed("testdata/answers/*") {
		if !tried[filepath.Base(path)] {
			t.Errorf("nobody tries %s", path)
		}
	}
}

// Without a number, and with one that there is not, the checker says what it takes.
func TestExerciseNumber(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has no exercises")
		return
	}
	for _, args := range [][]string{nil, {""}, {"0"}, {"13"}, {"one"}} {
		r := finish(t, exec.Command("./exercises.sh", args...))
		if r.status != 1 || !strings.HasPrefix(r.stdout, "which one? make exercise N=1") {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// The pages of the workshop fit together: each slot of a plan begins when the one before has ended, each exercise has its question,
// and hints name chapters that there are.
func TestWorkshop(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has no exercises")
		return
	}
	next := 0 // in minutes since midnight
	slots := regexp.MustCompile(`(?m)^\| (\d\d):(\d\d) \| ?(\d*) \| ?(\d*) \| ([^|]*) \|`).FindAllStringSubmatch(readAll(t, "docs/workshop.md"), -1)
	for _, slot := range slots {
		number := func(i int) int { n, _ := strconv.Atoi(slot[i]); return n } // an end takes no time
		starts := 60*number(1) + number(2)
		if next != 0 && starts != next {
			t.Errorf("docs/workshop.md: %q starts at %s:%s, and the slot before ends at %02d:%02d", slot[5], slot[1], slot[2], next/60, next%60)
		}
		next = starts + number(3) + number(4)
		if slot[5] == "End" {
			next = 0
		}
	}
	if len(slots) == 0 || next != 0 {
		t.Errorf("docs/workshop.md: %d slots, and no end", len(slots))
	}
	questions, checker := readAll(t, "docs/exercises.md"), readAll(t, "exercises.sh")
	for n := 1; n <= 12; n++ {
		if !strings.Contains(questions, fmt.Sprintf("\n### %d. ", n)) || !strings.Contains(checker, fmt.Sprintf("\nexercise_%d() {\n\thint=", n)) {
			t.Errorf("exercise %d: no question, or no check", n)
		}
	}
	for _, page := range regexp.MustCompile(`docs/[\w-]+\.md`).FindAllString(checker, -1) {
		if _, err := os.Stat(page); err != nil {
			t.Errorf("exercises.sh: %v", err)
		}
	}
}
