// A peer to measure against: the plainest handler in Go that does the gateway's job, without tokens and schemas.
//
//	go build -C benchmarks/peer -o ../results/peer .
//	benchmarks/results/peer [-ids] ADDRESS NATS_URL
//
// It publishes the body of POST /stations/<name>/produce/single, or each element of the JSON array that is posted to
// /stations/<name>/produce/batch, to <name>.final, and answers 200 once all of it is stored. With -ids every message has
// a de-duplication id and a content type, as those of the gateway have: without an id no request could be repeated
// safely whose answer is lost. Ids cost the broker about as much as the rest of a message.
package main

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	mostPending = 8192
	ackWait     = 10 * time.Second
	user, token = "root", "memphis"
	stored      = `{"error":null,"success":true}`
)

type peer struct {
	js  jetstream.JetStream
	ids bool
}

func main() {
	ids := flag.Bool("ids", false, "give each message a de-duplication id and a content type")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: peer [-ids] ADDRESS NATS_URL")
	}
	connection, err := nats.Connect(flag.Arg(1), nats.UserInfo(user, token))
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(mostPending))
	if err != nil {
		log.Fatal(err)
	}
	p := peer{js, *ids}
	http.HandleFunc("POST /stations/{station}/produce/single", p.single)
	http.HandleFunc("POST /stations/{station}/produce/batch", p.batch)
	log.Fatal(http.ListenAndServe(flag.Arg(0), nil))
}

func (p peer) single(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.store(w, r, body)
}

func (p peer) batch(w http.ResponseWriter, r *http.Request) {
	var elements []json.RawMessage
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &elements)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	payloads := make([][]byte, len(elements))
	for place, element := range elements {
		payloads[place] = element
	}
	p.store(w, r, payloads...)
}

// store publishes payloads, all of them under way at once, and answers when all are acknowledged or one is not.
func (p peer) store(w http.ResponseWriter, r *http.Request, payloads ...[]byte) {
	subject := r.PathValue("station") + ".final"
	futures, err := p.publish(subject, r.Header.Get("Content-Type"), payloads)
	late := time.After(ackWait)
	for _, future := range futures {
		select {
		case <-future.Ok():
		case failed := <-future.Err():
			err = failed
		case <-late:
			err = fmt.Errorf("no ack within %s", ackWait)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, stored)
}

func (p peer) publish(subject, contentType string, payloads [][]byte) ([]jetstream.PubAckFuture, error) {
	futures := make([]jetstream.PubAckFuture, 0, len(payloads))
	request := ""
	if p.ids {
		request = rand.Text()[:12] + "."
	}
	for place, payload := range payloads {
		var options []jetstream.PublishOpt
		message := &nats.Msg{Subject: subject, Data: payload}
		if p.ids {
			message.Header = nats.Header{"content-type": {contentType}}
			options = append(options, jetstream.WithMsgID(request+strconv.Itoa(place)))
		}
		future, err := p.js.PublishMsgAsync(message, options...)
		if err != nil {
			return futures, err
		}
		futures = append(futures, future)
	}
	return futures, nil
}
