package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The pages cannot go stale: code that they quote is compared with the source, transcripts are run and compared, and what they name exists.
// `make docs` refreshes the transcripts.

// A fence is a block of a page between two lines of ```.
type fence struct {
	kind  string // what follows the first ```
	line  int    // its number
	lines []string
	above string // the last line before it that is not empty
}

func fencesOf(page string) (fences []fence) {
	var open *fence
	above := ""
	for i, line := range strings.Split(page, "\n") {
		kind, isMark := strings.CutPrefix(line, "```")
		switch {
		case isMark && open == nil:
			open = &fence{kind: kind, line: i + 1, above: above}
		case isMark:
			fences, open, above = append(fences, *open), nil, ""
		case open != nil:
			open.lines = append(open.lines, line)
		case line != "":
			above = line
		}
	}
	return fences
}

// withoutFences is the text of a page alone.
func withoutFences(page string) string {
	var out []string
	inside := false
	for line := range strings.SplitSeq(page, "\n") {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside && !strings.HasPrefix(line, "    ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// pagesOf are the pages, by path. BOOK adds one that is being written.
func pagesOf(t *testing.T) map[string]string {
	pages := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "/docs/*.md", os.Getenv("BOOK")} { // /docs: in the VM
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			pages[path] = readAll(t, path)
		}
	}
	return pages
}

func TestBook(t *testing.T) {
	inVM := os.Getenv(initramfsVariable) != ""
	sources := ""
	for _, path := range globbed("*.go") {
		sources += readAll(t, path)
	}
	for path, page := range pagesOf(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) {
			if !inVM {
				checkShape(t, path, page)
				checkNames(t, path, page, sources)
				checkLinks(t, path, page)
				for _, f := range fencesOf(page) {
					checkFence(t, path, f, func(format string, args ...any) {
						t.Errorf("%s:%d: %s", path, f.line, fmt.Sprintf(format, args...))
					})
				}
				if regexp.MustCompile("(?m)^[ \t]+```").MatchString(page) {
					t.Errorf("%s: a fence that is indented is not looked at", path)
				}
			}
			if path != "README.md" { // its transcripts are on the terminal, or take packages from the network
				checkTranscripts(t, path, page, map[bool]string{false: "console", true: "console vm"}[inVM])
			}
		})
	}
}

var chapterSections = []string{"The problem", "What the kernel offers", "The code", "Try it", "Break it", "Elsewhere: LXC and runc", "Exercises"}

// checkShape sees to it that a chapter has what every chapter has.
func checkShape(t *testing.T, path, page string) {
	base := filepath.Base(path)
	if !regexp.MustCompile(`^\d\d-`).MatchString(base) {
		return
	}
	var sections []string
	for _, heading := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(withoutFences(page), -1) {
		sections = append(sections, heading[1])
	}
	if !slices.Equal(sections, chapterSections) {
		t.Errorf("%s: its sections are %q, and ought to be %q", path, sections, chapterSections)
	}
	if !strings.HasPrefix(page, fmt.Sprintf("# %s. ", strings.TrimPrefix(base[:2], "0"))) {
		t.Errorf("%s: the title does not begin with its number", path)
	}
	_, exercises, _ := strings.Cut(page, "\n## Exercises\n")
	if n := len(regexp.MustCompile(`(?m)^\d\. `).FindAllString(exercises, -1)); n != 3 {
		t.Errorf("%s: %d exercises, want 3", path, n)
	}
	if !regexp.MustCompile(`\nNext: \[.*\]\(.*\)\n*$`).MatchString(page) {
		t.Errorf("%s: it does not end with what is next", path)
	}
}

// declarations are the texts of all that a source file declares, without the comment above, by name. A method's is Type.Method.
func declarations(t *testing.T, path string) map[string][]string {
	t.Helper()
	source := readAll(t, path)
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, path, source, parser.ParseComments)
	must(t, err)
	lines := strings.Split(source, "\n")
	found := map[string][]string{}
	add := func(name string, node ast.Node) {
		found[name] = lines[files.Position(node.Pos()).Line-1 : files.Position(node.End()).Line]
	}
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				of := d.Recv.List[0].Type
				if star, ok := of.(*ast.StarExpr); ok {
					of = star.X
				}
				name = of.(*ast.Ident).Name + "." + name
			}
			add(name, d)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					add(s.Name.Name, d)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						add(name.Name, d)
					}
				}
			}
		}
	}
	return found
}

// dedented is lines without the tabs that all of them begin with.
func dedented(lines []string) string {
	least := 99
	for _, line := range lines {
		if strings.TrimSpace(line) != "" {
			least = min(least, len(line)-len(strings.TrimLeft(line, "\t")))
		}
	}
	var out []string
	for _, line := range lines {
		out = append(out, line[min(least, len(line)):])
	}
	return strings.Join(out, "\n")
}

// checkFence compares quoted code with the source, and turns away what nobody checks.
func checkFence(t *testing.T, path string, f fence, wrong func(format string, args ...any)) {
	switch f.kind {
	case "mermaid", "console", "console vm":
		return
	case "text":
		if slices.ContainsFunc(f.lines, func(line string) bool { return strings.HasPrefix(line, "$ ") }) && filepath.Base(path) != "narration.md" {
			wrong("a transcript that nobody runs: make it ```console")
		}
		return
	case "diff":
		cmd := exec.Command("git", "apply", "--check", "-")
		cmd.Stdin = strings.NewReader(strings.Join(f.lines, "\n") + "\n")
		if output, err := cmd.CombinedOutput(); err != nil {
			wrong("git apply: %v\n%s", err, output)
		}
		return
	case "go":
	default:
		wrong("```%s is no kind of fence that is checked", f.kind)
		return
	}
	name := regexp.MustCompile("^`(\\w+\\.go)`, `([\\w.]+)`:$").FindStringSubmatch(f.above)
	if name == nil {
		wrong("the line above does not say where the code is from, as `file.go`, `name`: does: %q", f.above)
		return
	}
	if _, err := os.Stat(name[1]); err != nil {
		wrong("%v", err)
		return
	}
	source, ok := declarations(t, name[1])[name[2]]
	if !ok {
		wrong("%s does not declare %s", name[1], name[2])
		return
	}
	var part []string
	for _, line := range append(f.lines, "// ...") {
		if strings.TrimSpace(line) != "// ..." {
			part = append(part, line)
			continue
		}
		at := 0
		for ; len(part) > 0 && at+len(part) <= len(source) && dedented(source[at:at+len(part)]) != dedented(part); at++ {
		}
		if at+len(part) > len(source) {
			wrong("%s, %s is not this:\n%s\nbut:\n%s", name[1], name[2], strings.Join(part, "\n"), strings.Join(source, "\n"))
			return
		}
		source, part = source[at+len(part):], nil
	}
}

// A page that is stale, or that nobody would notice were it stale, is noticed.
func TestStaleFence(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has no sources")
		return
	}
	const quote = "`hostname.go`, `setHostname`:\n\n```go\nfunc setHostname(c *child) error {\n// ...\n\treturn sys(unix.Sethostname([]byte(c.Hostname)), \"sethostname(%q)\", c.Hostname)\n}\n```\n"
	for _, stale := range []struct{ from, to, wrong string }{
		{"x", "x", ""},
		{"c.Hostname)\n}", "c.Hostname )\n}", "is not this"},
		{"\n}\n", "\n\treturn nil\n}\n", "is not this"},
		{"func setHostname(c *child) error {\n// ...\n\t", "\tinfo(\"setting the host name\")\n\t", "is not this"},
		{"`setHostname`", "`setName`", "does not declare setName"},
		{"`hostname.go`", "`name.go`", "no such file"},
		{":\n\n```go", ":\n\nLike this:\n\n```go", "does not say where the code is from"},
		{"```go", "```sh", "no kind of fence"},
		{"```go\n", "```text\n$ uname\n", "a transcript that nobody runs"},
		{"```go\n", "```diff\n--- a/hostname.go\n+++ b/hostname.go\n@@ -1,1 +1,1 @@\n-package other\n+package main\n", "patch"},
	} {
		var complaints string
		page := strings.ReplaceAll(quote, stale.from, stale.to)
		for _, f := range fencesOf(page) {
			checkFence(t, "page", f, func(format string, args ...any) { complaints += fmt.Sprintf(format, args...) })
		}
		if (complaints == "") != (stale.wrong == "") || !strings.Contains(complaints, stale.wrong) {
			t.Errorf("of\n%s\nit says %q, and not %q", page, complaints, stale.wrong)
		}
	}
	const printed = "08:41:00 INFO  hostname.go:10: process 4711 has uts:[4026531838] "
	equal(t, "what may differ", maskedTranscript(printed), maskedTranscript("09:12:59 INFO  hostname.go:10: process 12 has uts:[4026532001]"))
	for _, other := range []string{"hostname.go:10", "INFO ", "uts", "has"} {
		if maskedTranscript(strings.Replace(printed, other, "something", 1)) == maskedTranscript(printed) {
			t.Errorf("%s may differ in a transcript, and ought not to", other)
		}
	}
}

// checkNames sees to it that flags, files, functions and tests that a page names are there.
func checkNames(t *testing.T, path, page, sources string) {
	text := withoutFences(page)
	for _, code := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		code := code[1]
		if flag := regexp.MustCompile(`^(--[a-z-]+)`).FindString(code); flag != "" && flag != "--" && !strings.Contains(help, flag) {
			t.Errorf("%s: %s is no flag of barco's", path, flag)
		}
		if strings.HasSuffix(code, ".go") && !strings.ContainsAny(code, "/ *") {
			if _, err := os.Stat(code); err != nil {
				t.Errorf("%s names %s: %v", path, code, err)
			}
		}
		if strings.HasPrefix(code, "Test") && regexp.MustCompile(`^\w+$`).MatchString(code) && !strings.Contains(sources, "\nfunc "+code+"(") {
			t.Errorf("%s names %s, which is no test", path, code)
		}
	}
	for _, in := range regexp.MustCompile("`([\\w.]+)` in `(\\w+\\.go)`").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(in[2]); err == nil && declarations(t, in[2])[in[1]] == nil {
			t.Errorf("%s: %s does not declare %s", path, in[2], in[1])
		}
	}
	for _, command := range regexp.MustCompile(`(?m)^[$>] .*\bbarco( .*)$`).FindAllStringSubmatch(page, -1) {
		own, _, _ := strings.Cut(command[1], " -- ")
		own, _, _ = strings.Cut(own, " -c")
		for _, flag := range regexp.MustCompile(` (--[a-z-]+)`).FindAllStringSubmatch(own, -1) {
			if !strings.Contains(help, flag[1]) && !strings.Contains(command[1], "2>&1") {
				t.Errorf("%s: %s is no flag of barco's", path, flag[1])
			}
		}
	}
}

func globbed(pattern string) []string {
	paths, _ := filepath.Glob(pattern)
	return paths
}

// checkLinks follows the links that do not leave the repository.
func checkLinks(t *testing.T, path, page string) {
	dir := filepath.Dir(path)
	if path == os.Getenv("BOOK") {
		dir = "docs"
	}
	for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(withoutFences(page), -1) {
		if strings.Contains(link[1], "://") {
			continue
		}
		file, anchor, _ := strings.Cut(link[1], "#")
		target := page
		if file != "" {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if _, statErr := os.Stat(filepath.Join(dir, file)); statErr != nil {
				t.Errorf("%s links to %s: %v", path, link[1], err)
				continue
			}
			target = string(data)
		}
		if anchor != "" && !slices.Contains(anchorsOf(target), anchor) {
			t.Errorf("%s links to %s, which has no such heading", path, link[1])
		}
	}
}

// anchorsOf are the anchors that GitHub gives to a page's headings.
func anchorsOf(page string) (anchors []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(withoutFences(page), -1) {
		anchor := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

// masks are what may differ from run to run: times, inodes of namespaces, pids.
var masks = []struct{ pattern, by string }{
	{`\d\d:\d\d:\d\d`, "TIME"},
	{`\[\d{10}\]`, "[INODE]"},
	{`\b(process |pid |pid=|PID |barco-)\d+`, "${1}PID"},
	{`[ \t]+(\n|$)`, "$1"},
}

func maskedTranscript(text string) string {
	for _, m := range masks {
		text = regexp.MustCompile(m.pattern).ReplaceAllString(text, m.by)
	}
	return strings.TrimSuffix(text, "\n")
}

// A typed command is one of a transcript, and what it printed.
type typed struct {
	line    int
	command string
	output  []string
}

// commandsOf are the commands in the transcripts of that kind.
func commandsOf(page, kind string) (commands []*typed) {
	for _, f := range fencesOf(page) {
		if f.kind != kind {
			continue
		}
		for i, line := range f.lines {
			last := len(commands) - 1
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands = append(commands, &typed{line: f.line + 1 + i, command: command})
			} else if more, ok := strings.CutPrefix(line, "> "); ok && len(commands[last].output) == 0 {
				commands[last].command += "\n" + more
			} else if last >= 0 {
				commands[last].output = append(commands[last].output, line)
			}
		}
	}
	return commands
}

// shellsOf parts commands into those for one shell each: a page has one, but the solutions have one for each chapter.
func shellsOf(page string, commands []*typed) (shells [][]*typed) {
	number := regexp.MustCompile(`^## \d+\. `)
	from := 0
	for i, line := range strings.Split(page, "\n") {
		if to := slices.IndexFunc(commands, func(c *typed) bool { return c.line > i }); number.MatchString(line) && to > from {
			shells, from = append(shells, commands[from:to]), to
		}
	}
	return append(shells, commands[from:])
}

// checkTranscripts types the commands of a page into one shell, as a reader would, and compares what they print.
func checkTranscripts(t *testing.T, path, page, kind string) {
	commands := commandsOf(page, kind)
	if len(commands) == 0 {
		return
	}
	var outputs []string
	for _, shell := range shellsOf(page, commands) {
		outputs = append(outputs, typeAll(t, shell)...)
	}
	fresh := strings.Split(page, "\n")
	for i, c := range slices.Backward(commands) {
		want := strings.Join(c.output, "\n")
		if maskedTranscript(outputs[i]) == maskedTranscript(want) {
			continue
		}
		t.Errorf("%s:%d: $ %s\nprints\n%s\nand the page says\n%s", path, c.line, c.command, outputs[i], want)
		first := c.line + strings.Count(c.command, "\n")
		var lines []string
		if outputs[i] != "" {
			lines = strings.Split(strings.TrimSuffix(outputs[i], "\n"), "\n")
		}
		fresh = slices.Replace(fresh, first, first+len(c.output), lines...)
	}
	if t.Failed() && os.Getenv("BOOK_UPDATE") != "" {
		must(t, os.WriteFile(path, []byte(strings.Join(fresh, "\n")), 0o644))
	}
	if t.Failed() && kind == "console vm" { // the VM's disk is gone when it is: make docs reads this
		fmt.Printf("--- page %s\n%s\n--- end page\n", strings.TrimPrefix(path, "/"), strings.Join(fresh, "\n"))
	}
}

// typeAll runs the commands in one shell, in a directory with ./barco and rootfs, and returns what each printed.
func typeAll(t *testing.T, commands []*typed) []string {
	dir := t.TempDir()
	for above := dir; above != "/tmp" && above != "/"; above = filepath.Dir(above) {
		must(t, os.Chmod(above, 0o755))
	}
	exe, err := os.Executable()
	must(t, err)
	must(t, os.Mkdir(dir+"/.bin", 0o755))
	copyFile(t, exe, dir+"/barco")
	must(t, os.WriteFile(dir+"/.bin/sudo", []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755))
	rootfs, _ := filepath.Abs("rootfs.sh")
	if _, err := os.Stat(rootfs); err != nil {
		rootfs = "/rootfs.sh"
	}
	make := exec.Command(rootfs, "rootfs")
	make.Dir = dir
	if output, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	script := "exec </dev/null\n"
	for i, c := range commands {
		script += fmt.Sprintf("{ %s\n} 2>&1\nprintf '\\001%d\\n'\n", c.command, i)
	}
	must(t, os.WriteFile(dir+"/.script", []byte(script), 0o644))
	out, err := os.Create(dir + "/.output") // no pipe: what is left in the background may hold it open
	must(t, err)
	defer out.Close()
	shell := "sh"
	if bash, err := exec.LookPath("bash"); err == nil {
		shell = bash
	}
	patience, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(patience, shell, ".script")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = []string{"PATH=" + dir + "/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "TERM=dumb", "LC_ALL=C", runAsBarco + "=1"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Run() // the status is the last command's
	data, err := os.ReadFile(dir + "/.output")
	must(t, err)
	outputs := [][]byte{}
	for i := range commands {
		output, rest, ok := bytes.Cut(data, fmt.Appendf(nil, "\x01%d\n", i))
		if !ok {
			t.Errorf("the shell ended, or hung, at: %s", commands[i].command)
			rest = nil
		}
		outputs, data = append(outputs, output), rest
	}
	var texts []string
	for _, output := range outputs {
		texts = append(texts, strings.ReplaceAll(string(output), dir, "/home/you"))
	}
	return texts
}

// Every source file leads to its chapter, and every chapter to its files.
func TestChapters(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has no sources")
		return
	}
	for _, source := range globbed("*.go") {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text := readAll(t, source)
		chapter := chapters[source]
		if chapter == "" {
			t.Errorf("%s has no chapter", source)
			continue
		}
		page := readAll(t, "docs/"+chapter)
		if !strings.Contains(page, "`"+source+"`") {
			t.Errorf("docs/%s does not name %s", chapter, source)
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, source, text, parser.ParseComments)
		must(t, err)
		if len(parsed.Comments) == 0 || !strings.Contains(parsed.Comments[0].Text(), "docs/"+chapter) {
			t.Errorf("the first comment of %s does not name docs/%s", source, chapter)
		}
	}
}
