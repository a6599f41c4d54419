// Go's own graceful shutdown. The program says where it listens, and stops at the end of its standard
// input: that needs no signal, and comes even if the harness dies.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

var server = http.Server{Handler: http.HandlerFunc(answer)}

func main() {
	timeout, err := time.ParseDuration(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Print(err)
	}
}

func answer(w http.ResponseWriter, _ *http.Request) {
	work()
	io.WriteString(w, "hello\n")
}

var turns uint64

// What every handler does, as `work` in servers.rs.
func work() {
	turn := (atomic.AddUint64(&turns, 1) - 1) * 0x9E3779B97F4A7C15 >> 32
	switch turn % 3 {
	case 0:
	case 1:
		runtime.Gosched()
	default:
		time.Sleep(time.Duration(turn%1000) * time.Microsecond)
	}
}
