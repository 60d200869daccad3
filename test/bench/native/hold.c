/*
 * hold CLIENTS MILLISECONDS SOCKET...: so many connections of the native protocol, spread over the sockets, of which the last one signs, one
 * request at a time. Prints {"opened","p50","operations"}: the medians of what opening a connection and a signature took, in microseconds. Then
 * all stay open until standard input ends.
 */
#include "sign-load.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_CLIENTS = 4096, MAX_LATENCIES = 1 << 16 };

struct times {
	size_t count;
	uint32_t all[MAX_LATENCIES];
};

static struct times opened, latencies;
static uint64_t until;

_Noreturn void fail(const char *what)
{
	fprintf(stderr, "hold: %s\n", what);
	exit(1);
}

bool may_go_on(void)
{
	return microseconds() < until;
}

static void add(struct times *times, uint64_t taken)
{
	if (times->count < MAX_LATENCIES) times->all[times->count++] = (uint32_t)taken;
}

void signed_in(uint64_t taken)
{
	add(&latencies, taken);
}

static uint32_t median(struct times *times)
{
	sort_times(times->all, times->count);
	return times->count == 0 ? 0 : times->all[times->count / 2];
}

int main(int argc, char **argv)
{
	if (argc < 4) fail("usage: hold CLIENTS MILLISECONDS SOCKET...");
	int clients = atoi(argv[1]), sockets = argc - 3;
	long milliseconds = atol(argv[2]);
	if (clients < 1 || clients > MAX_CLIENTS || milliseconds < 1) fail("clients or milliseconds");
	static const struct work work = { .mechanism = 0x1041, .length = 32 };
	for (int i = 0; i < clients; i++) {
		char *arguments[] = { argv[3 + i % sockets], "1" };
		uint64_t before = microseconds();
		if (!native_way.prepare(arguments, &work)) fail("a connection");
		add(&opened, microseconds() - before);
	}
	until = microseconds() + (uint64_t)milliseconds * 1000;
	native_way.run(&work);
	size_t operations = latencies.count;
	printf("{\"opened\":%u,\"p50\":%u,\"operations\":%zu}\n", median(&opened), median(&latencies), operations);
	fflush(stdout);
	while (getchar() != EOF) continue;
	return 0;
}
