// A whole Temporal server for the tests of TLS and identity, with sign-ins that
// can be taken back before they run out.
//
//	temporal-server -config DIR -deny FILE
//
// DIR holds development.yaml. What it says is the stock server's to do: TLS,
// client certificates, tokens and what they permit. FILE lists subjects ("sub"
// of a token), one a line, of whom every call is refused. It is read at each
// call; without it nobody passes, so that a wrong path does not look like an
// empty list.
//
// All services run in this process. It prints "serving" when each of them has
// answered, and ends with SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	_ "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// How long all services may take to answer, after their start.
const patience = 2 * time.Minute

// A revoker asks the stock server's authorizer only about those who are not
// on the list.
type revoker struct {
	authorization.Authorizer
	denyFile string
}

func (r revoker) Authorize(
	ctx context.Context, claims *authorization.Claims, target *authorization.CallTarget,
) (authorization.Result, error) {
	if claims != nil && claims.Subject != "" {
		listed, err := os.ReadFile(r.denyFile)
		if err != nil {
			return authorization.Result{}, err
		}
		if slices.Contains(strings.Split(string(listed), "\n"), claims.Subject) {
			return authorization.Result{Decision: authorization.DecisionDeny, Reason: "revoked"}, nil
		}
	}
	return r.Authorizer.Authorize(ctx, claims, target)
}

// A server that is made, not started.
func newServer(cfg *config.Config, denyFile string) (temporal.Server, error) {
	logger := log.NewZapLogger(log.BuildZapLogger(cfg.Log))
	auth := &cfg.Global.Authorization

	authorizer, err := authorization.GetAuthorizerFromConfig(auth)
	if err != nil {
		return nil, err
	}
	claimMapper, err := authorization.GetClaimMapperFromConfig(auth, logger)
	if err != nil {
		return nil, err
	}
	audience, err := authorization.GetAudienceMapperFromConfig(auth)
	if err != nil {
		return nil, err
	}
	return temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.WithLogger(logger),
		temporal.ForServices([]string{
			string(primitives.FrontendService), string(primitives.InternalFrontendService),
			string(primitives.HistoryService), string(primitives.MatchingService), string(primitives.WorkerService),
		}),
		temporal.WithAuthorizer(revoker{authorizer, denyFile}),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claimMapper }),
		temporal.WithAudienceGetter(func(*config.Config) authorization.JWTAudienceMapper { return audience }),
	)
}

// Ask history, matching and visibility for something. The internal frontend
// serves the server's own worker, and asks nobody for certificate or token.
func probe(client workflowservice.WorkflowServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	namespace := primitives.SystemLocalNamespace

	_, err := client.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: "none"},
	})
	var notFound *serviceerror.NotFound
	if !errors.As(serviceerror.FromStatus(status.Convert(err)), &notFound) {
		return fmt.Errorf("history: %w", err)
	}
	_, err = client.DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
		Namespace: namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: "none"},
		TaskQueueType: enumspb.TASK_QUEUE_TYPE_WORKFLOW,
	})
	if err != nil {
		return fmt.Errorf("matching: %w", err)
	}
	_, err = client.ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: namespace, PageSize: 1,
	})
	if err != nil {
		return fmt.Errorf("visibility: %w", err)
	}
	return nil
}

func waitUntilServing(cfg *config.Config) error {
	port := cfg.Services[string(primitives.InternalFrontendService)].RPC.GRPCPort
	connection, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()

	client := workflowservice.NewWorkflowServiceClient(connection)
	deadline := time.Now().Add(patience)
	for {
		err := probe(client)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func run() error {
	configDir := flag.String("config", "", "folder with development.yaml")
	denyFile := flag.String("deny", "", "file with the subjects that are refused")
	flag.Parse()
	if *configDir == "" || *denyFile == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	interrupt := temporal.InterruptCh()
	cfg, err := config.LoadConfig("development", *configDir, "")
	if err != nil {
		return err
	}
	server, err := newServer(cfg, *denyFile)
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	if err := waitUntilServing(cfg); err != nil {
		return err
	}
	fmt.Println("serving")
	<-interrupt
	return server.Stop()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "temporal-server:", err)
		os.Exit(1)
	}
}
