package main

import (
	"context"
	"math/rand"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func init() { rand.Seed(time.Now().UnixNano()) } // which Go does by itself from 1.20 on

// isPassing tells of failures that another try may not meet: the server is full, away or stopping,
// or a proxy dropped the call. Every call is a pure function of its request, so that repeating it
// does no harm.
func isPassing(code codes.Code) bool {
	return code == codes.ResourceExhausted || code == codes.Unavailable || code == codes.Canceled
}

// delayAfter is how long to wait: until the server's RetryInfo says, or ever longer without one.
func delayAfter(err error, tries int) time.Duration {
	delay := time.Second
	if tries < 6 {
		delay = 20 * time.Millisecond << tries
	}
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			delay = retry.GetRetryDelay().AsDuration()
		}
	}
	return delay + time.Duration(rand.Int63n(int64(delay)/4+1)) // not all callers at once
}

// call sends until there is an answer. One deadline holds for all tries; the server knows it, and
// skips what nobody waits for any more. The error is that of the last try.
func call[Request, Response any](
	timeout time.Duration,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	for tries := 0; ; tries++ {
		// With a token: metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		response, err := method(ctx, request)
		if err == nil {
			return response, nil
		}
		delay := delayAfter(err, tries)
		if !isPassing(status.Code(err)) || time.Now().Add(delay).After(deadline) {
			return nil, err
		}
		time.Sleep(delay)
	}
}
