// Drives the benchmark of the worker over raw gRPC, without an SDK: one client
// for all contenders, and the worker that is their floor.
//
//	load run -address A -queue Q -input JSON -rows R -jobs N -at-once K
//	    runs N workflows, K at once; prints their figures as one JSON object
//	load first -address A -queue Q -input JSON -rows R
//	    queues one workflow, prints "queued", and when it has ended the time
//	    of that in seconds since 1970
//	load noop -address A -queue Q
//	    a worker that answers every workflow task at once with an empty result
//
// A workflow that does not complete, or whose result has another rowCount than
// R (0: not looked at), ends the program with an error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	namespace    = "default"
	workflowType = "previewQueryWorkflow"

	// The server misses now and then to wake whoever waits for the end of a
	// workflow. So the client asks again after some times the usual latency,
	// within these bounds; if the end was missed, the time that stands in the
	// closing event counts.
	askAgainTimes = 4
	askAgainMin   = 100 * time.Millisecond
	askAgainMax   = 2 * time.Second

	busyPause = 20 * time.Millisecond

	// A workflow that has not ended by then never will.
	patience = 60 * time.Second
)

type load struct {
	service  workflowservice.WorkflowServiceClient
	queue    *taskqueuepb.TaskQueue
	input    []byte
	rows     int
	idPrefix string
	usual    atomic.Int64 // moving average of the latency, ns; 0 before the first
	missed   atomic.Int64 // ends that the server did not tell of
}

func payloads(data []byte) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")},
		Data:     data,
	}}}
}

func (l *load) start(ctx context.Context, id string) (*commonpb.WorkflowExecution, error) {
	response, err := l.service.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace:    namespace,
		WorkflowId:   id,
		RequestId:    id,
		WorkflowType: &commonpb.WorkflowType{Name: workflowType},
		TaskQueue:    l.queue,
		Input:        payloads(l.input),
		Identity:     "opdata-bench",
	})
	if err != nil {
		return nil, err
	}
	return &commonpb.WorkflowExecution{WorkflowId: id, RunId: response.RunId}, nil
}

func (l *load) askAgain() time.Duration {
	usual := time.Duration(l.usual.Load())
	if usual == 0 {
		return askAgainMax
	}
	return min(max(askAgainTimes*usual, askAgainMin), askAgainMax)
}

// learn need not be exact: another goroutine may do the same in between.
func (l *load) learn(latency time.Duration) {
	usual := l.usual.Load()
	if usual == 0 {
		usual = int64(latency)
	}
	l.usual.Store(usual + (int64(latency)-usual)/16)
}

// end waits until the workflow has ended and returns when that was.
func (l *load) end(ctx context.Context, run *commonpb.WorkflowExecution) (time.Time, error) {
	var token []byte
	timedOut := false
	for {
		asked := time.Now()
		waiting, cancel := context.WithTimeout(ctx, l.askAgain())
		response, err := l.service.GetWorkflowExecutionHistory(waiting, &workflowservice.GetWorkflowExecutionHistoryRequest{
			Namespace:              namespace,
			Execution:              run,
			NextPageToken:          token,
			WaitNewEvent:           true,
			HistoryEventFilterType: enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
		})
		expired := waiting.Err() != nil
		cancel()
		switch {
		case err == nil && len(response.History.GetEvents()) > 0:
			ended := time.Now()
			event := response.History.Events[len(response.History.Events)-1]
			if closed := event.EventTime.AsTime(); timedOut && closed.Before(asked) {
				ended = closed
				l.missed.Add(1)
			}
			return ended, l.check(event)
		case err == nil: // something else happened
			token = response.NextPageToken
			timedOut = false
		case expired && ctx.Err() == nil:
			token = nil
			timedOut = true
		default:
			return time.Time{}, fmt.Errorf("%s: %w", run.WorkflowId, err)
		}
	}
}

func (l *load) check(event *historypb.HistoryEvent) error {
	completed := event.GetWorkflowExecutionCompletedEventAttributes()
	if completed == nil {
		return fmt.Errorf("workflow ended otherwise: %v", event)
	}
	if l.rows == 0 {
		return nil
	}
	var result struct{ RowCount int }
	if list := completed.Result.GetPayloads(); len(list) != 1 {
		return errors.New("workflow completed without a result")
	} else if err := json.Unmarshal(list[0].Data, &result); err != nil {
		return err
	}
	if result.RowCount != l.rows {
		return fmt.Errorf("%d rows instead of %d", result.RowCount, l.rows)
	}
	return nil
}

// runJobs prints the figures of so many workflows.
func (l *load) runJobs(ctx context.Context, jobs, atOnce int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	took := make([]float64, jobs)
	failures := make(chan error, atOnce)
	var next atomic.Int64
	var all sync.WaitGroup

	began := time.Now()
	for range atOnce {
		all.Add(1)
		go func() {
			defer all.Done()
			for n := next.Add(1) - 1; n < int64(jobs); n = next.Add(1) - 1 {
				started := time.Now()
				ctx, cancel := context.WithTimeout(ctx, patience)
				run, err := l.start(ctx, fmt.Sprintf("%s-%d", l.idPrefix, n))
				var ended time.Time
				if err == nil {
					ended, err = l.end(ctx, run)
				}
				cancel()
				if err != nil {
					failures <- err
					stop()
					return
				}
				l.learn(ended.Sub(started))
				took[n] = float64(ended.Sub(started)) / 1e6
			}
		}()
	}
	all.Wait()
	seconds := time.Since(began).Seconds()
	close(failures)
	for err := range failures {
		return err
	}
	sort.Float64s(took)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"p50":       took[jobs/2],
		"p95":       took[jobs*95/100],
		"perSecond": float64(jobs) / seconds,
		"missed":    l.missed.Load(),
	})
}

// runFirst is told apart from a job like any other by what it prints: the
// caller starts the worker between "queued" and the time of the end.
func (l *load) runFirst(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	run, err := l.start(ctx, l.idPrefix)
	if err != nil {
		return err
	}
	fmt.Println("queued")
	ended, err := l.end(ctx, run)
	if err != nil {
		return err
	}
	fmt.Printf("%.6f\n", float64(ended.UnixNano())/1e9)
	return nil
}

// noop is the least a worker can do: one poll and one answer a job. Several
// polls are open, as every worker has them.
func (l *load) noop(ctx context.Context) error {
	const pollers = 5
	failures := make(chan error)
	for range pollers {
		go func() { failures <- l.poll(ctx) }()
	}
	return <-failures
}

func (l *load) poll(ctx context.Context) error {
	for {
		polling, cancel := context.WithTimeout(ctx, 70*time.Second)
		task, err := l.service.PollWorkflowTaskQueue(polling, &workflowservice.PollWorkflowTaskQueueRequest{
			Namespace: namespace,
			TaskQueue: l.queue,
			Identity:  "opdata-bench-noop",
		})
		cancel()
		if err != nil {
			return err
		}
		if len(task.TaskToken) == 0 {
			continue
		}
		_, err = l.service.RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{
			Namespace: namespace,
			TaskToken: task.TaskToken,
			Identity:  "opdata-bench-noop",
			Commands: []*commandpb.Command{{
				CommandType: enumspb.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
				Attributes: &commandpb.Command_CompleteWorkflowExecutionCommandAttributes{
					CompleteWorkflowExecutionCommandAttributes: &commandpb.CompleteWorkflowExecutionCommandAttributes{
						Result: payloads([]byte("{}")),
					},
				},
			}},
		})
		if err != nil {
			return err
		}
	}
}

// retryBusy does what every client of Temporal's does when the server is busy
// for a moment.
func retryBusy(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	for {
		err := invoke(ctx, method, request, reply, connection, options...)
		if status.Code(err) != codes.ResourceExhausted {
			return err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return err
		}
	}
}

func main() {
	if err := mainOrError(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func mainOrError() error {
	if len(os.Args) < 2 {
		return errors.New("no subcommand")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("address", "", "host:port of the Temporal frontend")
	queue := flags.String("queue", "", "task queue")
	input := flags.String("input", "{}", "input of the workflows, JSON")
	rows := flags.Int("rows", 0, "rowCount that results must have")
	jobs := flags.Int("jobs", 1, "how many workflows")
	atOnce := flags.Int("at-once", 1, "how many of them at once")
	flags.Parse(os.Args[2:])

	connection, err := grpc.NewClient(*address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(retryBusy))
	if err != nil {
		return err
	}
	defer connection.Close()
	l := &load{
		service:  workflowservice.NewWorkflowServiceClient(connection),
		queue:    &taskqueuepb.TaskQueue{Name: *queue},
		input:    []byte(*input),
		rows:     *rows,
		idPrefix: fmt.Sprintf("%s-%d", *queue, time.Now().UnixNano()),
	}
	ctx := context.Background()

	// the connection is made here, not within the first job
	if _, err := l.service.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err != nil {
		return err
	}
	switch os.Args[1] {
	case "run":
		return l.runJobs(ctx, *jobs, *atOnce)
	case "first":
		return l.runFirst(ctx)
	case "noop":
		return l.noop(ctx)
	}
	return fmt.Errorf("unknown subcommand %q", os.Args[1])
}
