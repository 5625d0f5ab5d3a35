package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// What parent and child say to each other, over one socketpair (unix(7)), and this is all:
//
//	parent                                child
//	config, binds   ->                    hostname, mounts, pivot_root
//	                <-  map my ids        (before the mounts, with --idmap or --overlay)
//	seccomp filter, limits, uid_map, gid_map
//	mapped          ->                    /dev
//	                <-  terminal          lo, identity, capabilities, seccomp
//	                <-  executing         execve closes the child's end
//	config          ->                    (with --init, whose start of the command closes it)
//	end of file: the command runs
//
// At any moment the child may send a line for the log instead, or the failure that ended it.
//
// Chapter: docs/02-command-line-and-conversation.md

// A message is one thing that parent and child say to each other.
type message byte

const (
	messageEnd       message = 0   // no message: end of file, the other side is gone
	messageConfig    message = 'c' // parent to child: a Config
	messageMount     message = 'b' // parent to child: a mount that --bind asks for, as a descriptor
	messageMapIDs    message = 'm' // child to parent: I need ids now
	messageMapped    message = 'd' // parent to child: done, go on, with this seccomp filter; with --idmap or --overlay the root, as a descriptor
	messageExecuting message = 'x' // child to parent: the next thing I do is execve
	messageTerminal  message = 't' // child to parent: the master of my terminal, as a descriptor
	messageGo        message = 'g' // parent to child: go on, with -v or --step after each line that announces a step
	messageFailed    message = 'f' // child to parent: a Failure
	messageLog       message = 'l' // child to parent: a line of narration
)

func (m message) String() string {
	return map[message]string{messageEnd: "end of file", messageConfig: "configuration", messageMount: "a mount", messageMapIDs: "map my ids", messageMapped: "mapped",
		messageExecuting: "executing", messageTerminal: "my terminal's master", messageFailed: "failed"}[m]
}

// A bytesText is text that need not be UTF-8, as paths and arguments need not be. JSON, which knows no other text, carries it as base64.
type bytesText string

func bytesTexts(in []string) (out []bytesText) {
	for _, s := range in {
		out = append(out, bytesText(s))
	}
	return out
}

func plainStrings(in []bytesText) (out []string) {
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}

func (t bytesText) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(t)) }

func (t *bytesText) UnmarshalJSON(data []byte) error {
	var b []byte
	err := json.Unmarshal(data, &b)
	*t = bytesText(b)
	return err
}

// A socket is one end of the conversation. SOCK_SEQPACKET keeps messages apart, and shows the other side's death as end of file.
type socket int

// packetSize is how much of a message goes into one packet: well below what a Unix socket takes by default (unix(7), SO_SNDBUF).
// messageSize is how long a message may be: more than Linux takes of arguments and environment, 6 MiB, in base64.
const (
	packetSize  = 64 << 10
	messageSize = 16 << 20
)

// send sends a message: payload as JSON where it has one, and descriptors, which the other side gets copies of (SCM_RIGHTS).
// All packets but the last begin with a 1, to say that more follow.
func (s socket) send(m message, payload any, descriptors ...int) error {
	if logSink == nil && m != messageGo {
		logLine(levelDebug, 2, "sendmsg(%d, %s)", s, m)
	}
	var data, rights []byte
	if payload != nil {
		var err error
		if data, err = json.Marshal(payload); err != nil {
			return err
		}
	}
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	for more := byte(1); more == 1; {
		part := data[:min(len(data), packetSize)]
		if data = data[len(part):]; len(data) == 0 {
			more = 0
		}
		packet := append([]byte{more, byte(m)}, part...)
		if err := unix.Sendmsg(int(s), packet, rights, nil, unix.MSG_NOSIGNAL); err != nil { // not by way of sys, which narrates by sending
			return &Failure{Call: fmt.Sprintf("sendmsg(%d, %s)", s, m), Errno: err.(unix.Errno)}
		}
		rights = nil
	}
	return nil
}

// hungUp says whether the other side has closed its end, though there may be messages of it left to receive. Both.
func (s socket) hungUp() bool {
	poll := []unix.PollFd{{Fd: int32(s)}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&unix.POLLHUP != 0
}

// received is a message that has arrived.
type received struct {
	kind       message
	payload    []byte // JSON
	descriptor int    // -1 without one
}

// receive waits for a message. It believes nothing of what arrives but what it has checked: the parent uses it on the child.
func (s socket) receive() (got received, err error) {
	got.descriptor = -1
	defer func() {
		if err != nil {
			got.close()
		}
	}()
	packet, rights := make([]byte, 2+packetSize), make([]byte, unix.CmsgLen(4)) // room for one descriptor, not rounded up to two: the kernel closes the rest
	for {
		n, rightsN, _, _, err := unix.Recvmsg(int(s), packet, rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET: // it died with our message unread
			return got, nil
		case err != nil:
			return got, &Failure{Call: fmt.Sprintf("recvmsg(%d)", s), Errno: err.(unix.Errno)}
		case n == 0:
			return got, nil
		}
		if messages, err := unix.ParseSocketControlMessage(rights[:rightsN]); err == nil && len(messages) == 1 {
			if descriptors, err := unix.ParseUnixRights(&messages[0]); err == nil && len(descriptors) == 1 {
				got.close()
				got.descriptor = descriptors[0]
			}
		}
		more := packet[0] == 1
		if n < 2 || more && n < len(packet) || len(got.payload)+n > messageSize {
			return got, refuse("what came over the socket is no message of barco's")
		}
		got.payload = append(got.payload, packet[2:n]...)
		if !more {
			got.kind = message(packet[1])
			return got, nil
		}
	}
}

// close closes the descriptor that came with a message, if one did and nobody has taken it.
func (got *received) close() {
	if got.descriptor >= 0 {
		unix.Close(got.descriptor)
	}
	got.descriptor = -1
}

// expect waits until the child has said m, and sees to what it has to tell meanwhile. Nothing that the child says is trusted,
// though it is still barco: not its order, nor its form, nor its text, which ends on the user's terminal. Parent.
func (c *container) expect(m message) error {
	for {
		got, err := c.receive()
		if err != nil {
			return in("conversation", err)
		}
		if got.kind != messageLog {
			logLine(levelDebug, 1, "recvmsg(%d) = %s", c.socket, got.kind)
		}
		switch {
		case got.kind == m:
			got.close()
			c.heard = m
			return nil
		case got.kind == messageTerminal && got.descriptor >= 0 && c.config.Terminal && c.terminal == nil:
			if c.terminal, err = takeTerminal(got.descriptor); err != nil {
				got.close()
				return in("terminal", err)
			}
			continue
		}
		got.close()
		switch got.kind {
		case messageLog:
			if err := c.hear(got.payload); err != nil {
				return in("conversation", err)
			}
		case messageFailed:
			return failureOf(got.payload)
		case messageEnd:
			return c.diedEarly()
		default:
			return in("conversation", refuse("the container said %q where %q was due", byte(got.kind), byte(m)))
		}
	}
}

// tell has the parent write an entry of the child's, and if it announces a step, and steps are taken one by one, waits for the
// answer. Child.
func (c *child) tell(e entry) {
	_, isStep := lessons[e.Step]
	isStep = isStep && c.narrates()
	if isStep {
		e.Name, _ = os.Hostname()
	}
	if c.send(messageLog, e) == nil && isStep {
		c.receive()
	}
}

// hear is the other end of tell. Parent.
func (c *container) hear(payload []byte) error {
	var e entry
	if json.Unmarshal(payload, &e) != nil {
		return refuse("the container sent a line for the log that is none")
	}
	_, isStep := lessons[e.Step]
	say(entry{Level: e.Level, Side: "child", Where: printable(e.Where), Text: printable(e.Text), Step: e.Step, Name: printable(e.Name)})
	if isStep && c.config.narrates() {
		return c.send(messageGo, nil)
	}
	return nil
}

// failureOf reads the failure that ended the child. Parent.
func failureOf(payload []byte) error {
	f := new(Failure)
	if json.Unmarshal(payload, f) != nil || f.Call+f.Reason == "" {
		return in("conversation", refuse("the container sent a failure that is none"))
	}
	if f.Status != statusNotExecutable && f.Status != statusNotFound {
		f.Status = statusBarcoFailed
	}
	f.Step, f.Call, f.Reason, f.Hint = printable(f.Step), printable(f.Call), printable(f.Reason), printable(f.Hint)
	return in("container", f)
}

// printable is text without what a terminal would take for more than text.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
