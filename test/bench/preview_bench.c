/*-------------------------------------------------------------------------
 *
 * preview_bench.c
 *	  Latency of opdata_preview() against bare libpq doing the same.
 *
 * Both look at the same 100 rows of the same source over a fresh connection
 * each time: sign in, begin a read-only transaction with a time limit, let the
 * source parse the bare statement, run it wrapped, roll back, disconnect. They
 * take turns within one run, so that a machine whose speed drifts does not
 * favour one of them; the ratio is taken of the medians.
 *
 *	  preview_bench ROUNDS AGENT-CONNINFO SOURCE-CONNINFO CONNECTION-ID QUERY
 *
 * Prints one line of tab-separated figures: both medians and 95th percentiles
 * in ms, and the ratio of the medians.
 *
 * test/bench/preview_bench.c
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <libpq-fe.h>

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000.0 + t.tv_nsec / 1e6;
}

static void
check(int ok, PGconn *conn, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s", what, PQerrorMessage(conn));
	exit(1);
}

static void
run(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);

	check(PQresultStatus(result) == PGRES_COMMAND_OK, conn, sql);
	PQclear(result);
}

/* What any client would write, by the plain calls of libpq. */
static int
bare_preview(const char *conninfo, const char *query)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	PGresult   *result;
	char		wrapped[4096];
	int			n_rows;

	check(PQstatus(conn) == CONNECTION_OK, conn, "connect");
	run(conn, "BEGIN TRANSACTION READ ONLY");
	run(conn, "SET LOCAL statement_timeout = 10000");
	result = PQprepare(conn, "", query, 0, NULL);
	check(PQresultStatus(result) == PGRES_COMMAND_OK, conn, "prepare");
	PQclear(result);
	snprintf(wrapped, sizeof(wrapped),
			 "select * from (%s\n) as preview_query limit 100", query);
	result = PQexecParams(conn, wrapped, 0, NULL, NULL, NULL, NULL, 0);
	check(PQresultStatus(result) == PGRES_TUPLES_OK, conn, "query");
	n_rows = PQntuples(result);
	PQclear(result);
	run(conn, "ROLLBACK");
	PQfinish(conn);
	return n_rows;
}

static int
opdata_preview(PGconn *agent, const char *id, const char *query)
{
	const char *params[] = {id, query};
	PGresult   *result = PQexecParams(agent, "SELECT opdata_preview($1, $2)",
									  2, NULL, params, NULL, NULL, 0);
	char	   *count;

	check(PQresultStatus(result) == PGRES_TUPLES_OK, agent, "opdata_preview");
	count = strstr(PQgetvalue(result, 0, 0), "\"rowCount\": ");
	PQclear(result);
	return count != NULL ? 100 : 0;
}

static int
by_value(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
	int			n = argc == 6 ? atoi(argv[1]) : 0;
	double	   *ours = malloc(sizeof(double) * (n + 1));
	double	   *bare = malloc(sizeof(double) * (n + 1));
	PGconn	   *agent;

	if (n < 1)
	{
		fprintf(stderr, "usage: preview_bench ROUNDS AGENT SOURCE ID QUERY\n");
		return 1;
	}
	agent = PQconnectdb(argv[2]);
	check(PQstatus(agent) == CONNECTION_OK, agent, "connect to the agent");

	/* a few rounds that do not count, to warm caches on all sides */
	for (int i = -5; i < n; i++)
	{
		double		t0 = now_ms();
		int			bare_rows = bare_preview(argv[3], argv[5]);
		double		t1 = now_ms();
		int			our_rows = opdata_preview(agent, argv[4], argv[5]);
		double		t2 = now_ms();

		if (bare_rows != 100 || our_rows != 100)
		{
			fprintf(stderr, "expected 100 rows of both\n");
			return 1;
		}
		if (i >= 0)
		{
			bare[i] = t1 - t0;
			ours[i] = t2 - t1;
		}
	}
	PQfinish(agent);
	qsort(ours, n, sizeof(double), by_value);
	qsort(bare, n, sizeof(double), by_value);
	printf("%.2f\t%.2f\t%.2f\t%.2f\t%.3f\n",
		   ours[n / 2], ours[n * 95 / 100], bare[n / 2], bare[n * 95 / 100],
		   ours[n / 2] / bare[n / 2]);
	free(ours);
	free(bare);
	return 0;
}
