# barco: what a newcomer types is `make run` and `make test`. `make test-here ARGS='-v -run Mounts'` passes flags on to go test.

GO         ?= go
SUDO       := $(shell test "$$(id -u)" = 0 || echo sudo)
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# With a terminal, a shell: its last command's status is no failure of make's. Without one there is nobody to talk to a shell.
run: build
	@if test -t 0 && test -t 1; then set -x; $(SUDO) ./barco -u 0 -m / -c /bin/sh || true; \
	else set -x; $(SUDO) ./barco -u 0 -m / -c /bin/sh -a -c -a 'id; hostname; ls /proc | grep -c "^[0-9]"'; fi

# A small root filesystem of one's own, in a second.
DIR ?= rootfs
rootfs: | rootfs-tools
	@./rootfs.sh $(DIR)

# Static: barco then runs on any distribution, starts faster, and can be the init in a container that has no libraries (init.go).
STATIC = -tags netgo,osusergo -ldflags "-linkmode external -extldflags -static -X main.version=$(VERSION)"

# Always: go build knows by itself what is up to date, and the version changes with each commit.
build: | tools
	$(GO) build $(STATIC) -o barco .

static: build # there is no other; this is how to ask for it

# The tests start real containers, so they run as root; they are compiled as whoever you are.
test: test-here test-arm64 test-vm

test-here: | tools test-tools
	$(GO) test -count=1 -timeout 20m $(STATIC) $(if $(SUDO),-exec 'sudo -E') $(ARGS) .

# barco for arm64, and its seccomp filter in a simulator there.
test-arm64: | tools test-tools
	./arm64.sh

# The same tests on a kernel with cgroup v2 alone, in QEMU: what this machine may not be able to enforce is proved there.
test-vm: | tools test-tools
	./vm.sh

# At every system call of parent and child, let it fail or kill one of the two; then thousands of starts. `make test` does a sample.
torture: | tools test-tools
	BARCO_TORTURE=whole $(GO) test -count=1 -timeout 60m $(STATIC) $(if $(SUDO),-exec 'sudo -E') -v -run 'Torture|NothingLeftBehind|OneThatStays|SameEveryTime' .

# Looks for input that barco does not bear, FUZZTIME for each kind of it; `make test` tries the examples.
FUZZTIME ?= 30s
fuzz: | tools test-tools
	@for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' fuzz_test.go); do \
		echo "$$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $(if $(SUDO),-exec 'sudo -E') . || exit 1; done

# What a container costs: in barco, runc, crun, bubblewrap and unshare, here and on cgroup v2 in QEMU; and what the parts of a start cost.
bench: build | bench-tools
	$(GO) build -o .bench/barco-dynamic .
	PATH="$(CURDIR):$(CURDIR)/.bench:$$PATH" $(GO) test $(STATIC) $(if $(SUDO),-exec 'sudo -E') -run '^$$' -bench . -benchtime 100x -skip Peers .
	PATH="$(CURDIR):$(CURDIR)/.bench:$$PATH" $(GO) test $(STATIC) $(if $(SUDO),-exec 'sudo -E') -timeout 20m -run '^$$' -bench Peers -benchtime 1x .
	PATH="$(CURDIR):$(CURDIR)/.bench:$$PATH" PROGRAMS="barco barco-dynamic hyperfine time runc crun bwrap unshare" ./vm.sh -test.run '^$$' -test.bench Peers -test.benchtime 1x

# Refreshes what the pages show of a run: transcripts from here, transcripts and a whole narration from QEMU. git diff shows what is new.
docs: | tools test-tools
	BOOK_UPDATE=1 $(GO) test -count=1 $(STATIC) $(if $(SUDO),-exec 'sudo -E') -run TestBook . >/dev/null || true
	./vm.sh -test.run 'ClassicRun|TestBook' >.vm/run || true
	@sed -n '/^--- narration/,/^--- end$$/p' .vm/run | sed '1d;$$d' >.vm/narration
	@if [ -s .vm/narration ]; then sed -i -e '/^```text/,/^```$$/{//!d}' -e '/^```text/r .vm/narration' docs/narration.md; fi
	@awk '/^--- page /{page = $$3; printf "" >page; next} /^--- end page$$/{page = ""} page {print >page}' .vm/run
	$(MAKE) test-here ARGS='-run "TestBook|TestChapters"'

# Says whether your answer to one of the exercises in docs/exercises.md is right, and why.
exercise: $(if $(N),build) | rootfs-tools
	@GO="$(GO)" ./exercises.sh $(N)

lint: | tools
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

clean:
	rm -rf barco .vm .bench

# What barco needs to be built, and its tests to run. install.sh says what it installs before it does.
tools:
	@./install.sh build

rootfs-tools:
	@./install.sh rootfs

test-tools:
	@./install.sh test

bench-tools:
	@./install.sh bench

.PHONY: run build static test test-here test-arm64 test-vm rootfs torture fuzz bench docs exercise lint clean tools rootfs-tools test-tools bench-tools
