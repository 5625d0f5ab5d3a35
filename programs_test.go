package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Ordinary programs go on working in the container: what the filter and the capabilities take away is not what they live on.

// threads is a C program that starts threads, and waits for what they have computed.
const threads = `
#include <pthread.h>
#include <stdio.h>
static void *square(void *n) { return (void *)((long)n * (long)n); }
int main(void) {
	pthread_t thread[20];
	long sum = 0;
	for (long i = 0; i < 20; i++)
		if (pthread_create(&thread[i], NULL, square, (void *)i) != 0)
			return 1;
	for (int i = 0; i < 20; i++) {
		void *result;
		pthread_join(thread[i], &result);
		sum += (long)result;
	}
	printf("%ld\n", sum);
	return 0;
}
`

// goBin is the directory of the go command.
func goBin(t *testing.T) string {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	return strings.TrimSpace(string(root)) + "/bin"
}

func TestOrdinaryPrograms(t *testing.T) {
	if os.Getenv(initramfsVariable) != "" {
		t.Log("not here: the VM has busybox and nothing else")
		return
	}
	work := t.TempDir() // the command's: it may write there
	for dir := work; dir != "/tmp"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o777))
	}
	write := func(name, text string) { must(t, os.WriteFile(work+"/"+name, []byte(text), 0o644)) }
	write("threads.c", threads)
	must(t, os.Mkdir(work+"/hello", 0o777))
	must(t, os.Chmod(work+"/hello", 0o777))
	write("hello/go.mod", "module hello\n\ngo 1.21\n")
	write("hello/main.go", "package main\n\nfunc main() { done := make(chan int); go func() { done <- 42 }(); println(<-done) }\n")
	write("index.html", "served\n")
	write("program.py", `
import os, subprocess, threading, tempfile, multiprocessing
results = []
threads = [threading.Thread(target=lambda i=i: results.append(i * i)) for i in range(20)]
for t in threads: t.start()
for t in threads: t.join()
print(sum(results), subprocess.check_output(["echo", "child"], text=True).strip(), tempfile.TemporaryFile().write(b"x"), multiprocessing.Pool(2).map(abs, [-1, -2]))
`)
	write("program.js", `
const { Worker } = require("worker_threads");
const server = require("http").createServer((q, r) => r.end("served")).listen(0, "127.0.0.1", () =>
	fetch("http://127.0.0.1:" + server.address().port).then(r => r.text()).then(text => {
		new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true }).on("message", n => { console.log(text, n); process.exit(); });
	}));
`)
	for _, test := range []struct{ name, script, want string }{
		{"shell", "trap 'echo trapped' USR1; kill -USR1 $$; (exit 3) || echo $? $(seq 1 100 | sort -n | tail -n 1)", "trapped\n3 100\n"},
		{"files", "cp -a index.html copy && mv copy moved && chmod 600 moved && ln moved link && tar cf a.tar moved && tar xf a.tar && rm link a.tar && cat moved", "served\n"},
		{"cc", "cc -pthread -o threads threads.c && ./threads", "2470\n"},
		{"static, glibc", "cc -static -pthread -o threads.glibc threads.c && ./threads.glibc", "2470\n"},
		{"static, musl", "musl-gcc -static -o threads.musl threads.c && ./threads.musl", "2470\n"},
		{"go", "cd hello && PATH=$PATH:" + goBin(t) + " GOTOOLCHAIN=local GOCACHE=$PWD/cache go run .", "42\n"},
		{"git", "git init -q repo && cd repo && git config user.email a@b && git config user.name c && cp ../index.html . && git add . && git commit -q -m one && git clone -q . ../clone && git -C ../clone log --format=%s", "one\n"},
		{"python", "/usr/bin/python3 program.py", "2470 child 1 [1, 2]\n"},
		{"node", "node program.js", "served 42\n"},
		{"web server", "busybox httpd -f -p 127.0.0.1:8000 & until busybox wget -q -O - http://127.0.0.1:8000/index.html 2>/dev/null; do :; done; kill $!", "served\n"},
	} {
		if _, err := exec.LookPath("musl-gcc"); err != nil && test.name == "static, musl" {
			t.Log("not here: no musl-gcc, which make test installs where there is apt-get")
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			cmd := command("-q", "--pids", "max", "--memory", "max", "-m", "/", "-u", "1000", "--workdir", work, "--env", "HOME="+work, "-c", "/bin/sh", "--", "-c", "exec 2>&1; "+test.script)
			r := finish(t, cmd)
			if !strings.HasPrefix(r.stdout, test.want) {
				t.Errorf("status %d, and it said\n%s%s", r.status, r.stdout, r.stderr)
			}
		})
	}
	for _, name := range []string{"threads.glibc", "threads.musl"} { // and with nothing around them
		root := busyboxRoot(t)
		if _, err := os.Stat(work + "/" + name); err != nil {
			continue // said above
		}
		copyFile(t, work+"/"+name, root+"/bin/threads")
		if r := barco(t, "-q", "-m", root, "-c", "/bin/threads"); r.stdout != "2470\n" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
