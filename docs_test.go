package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The pages name nothing that is not there.
func TestDocs(t *testing.T) {
	var tests string
	sources, _ := filepath.Glob("*_test.go")
	for _, source := range sources {
		text, err := os.ReadFile(source)
		must(t, err)
		tests += string(text)
	}
	pages, _ := filepath.Glob("docs/*.md")
	for _, page := range append(pages, "README.md") {
		text, err := os.ReadFile(page)
		if os.IsNotExist(err) {
			t.Log("not here: the VM has no README")
			return
		}
		if strings.Contains(string(text), "TORTURE") {
			t.Errorf("%s has a place that nobody has filled", page)
		}
		must(t, err)
		for _, name := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(tests, "\nfunc "+name[1]+"(t *testing.T)") {
				t.Errorf("%s names %s, which is no test", page, name[1])
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)[)#]`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
			}
		}
	}
}
