// HTTP/2 without TLS. A file of its own, because the standard library has it only since Go 1.24.
package main

import "net/http"

func init() {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
}
