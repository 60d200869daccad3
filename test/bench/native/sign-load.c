/*
 * sign-load WAY KEY CLIENTS MILLISECONDS ARGUMENT...: so many clients, each a process of its own, sign as fast as they are answered.
 *   pkcs11 MODULE TOKEN PIN   a PKCS #11 module; the private key of the label `ec` or `rsa`
 *   native SOCKET DEPTH       the native protocol, so many requests waiting
 * Prints {"operations","milliseconds","p50","p99","retries"}: latencies in microseconds, set-ups that had to be tried again.
 */
#include "sign-load.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 64, MAX_LATENCIES = 1 << 18, MAX_TRIES = 200, TRY_AGAIN = 75 };

struct client {
	uint32_t count;
	uint32_t latencies[MAX_LATENCIES];
};

struct board {
	atomic_int ready;
	atomic_ullong until; /* 0: not yet */
	struct client clients[MAX_CLIENTS];
};

static struct board *board;
static struct client *self;

_Noreturn void fail(const char *what)
{
	fprintf(stderr, "sign-load: %s\n", what);
	exit(1);
}

bool may_go_on(void)
{
	return microseconds() < atomic_load(&board->until);
}

void signed_in(uint64_t taken)
{
	if (self->count > 0 && !may_go_on()) return; /* one at least: a short run on a busy machine has a result, too */
	if (self->count < MAX_LATENCIES) self->latencies[self->count] = (uint32_t)taken;
	self->count++;
}

static void pause_for(long nanoseconds)
{
	nanosleep(&(struct timespec){ .tv_nsec = nanoseconds }, NULL);
}

static _Noreturn void be_client(const struct way *way, char **arguments, const struct work *work)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!way->prepare(arguments, work)) _exit(TRY_AGAIN);
	atomic_fetch_add(&board->ready, 1);
	while (atomic_load(&board->until) == 0) pause_for(200000);
	way->run(work);
	_exit(0);
}

static pid_t start_client(int index, const struct way *way, char **arguments, const struct work *work)
{
	pid_t pid = fork();
	if (pid < 0) fail("fork");
	if (pid != 0) return pid;
	self = &board->clients[index];
	be_client(way, arguments, work);
}

/* Starts those again that could not set themselves up, until all are ready. SoftHSM's log-in is a race between processes. */
static int start_all(int clients, const struct way *way, char **arguments, const struct work *work)
{
	pid_t pids[MAX_CLIENTS];
	int retries = 0;
	for (int i = 0; i < clients; i++) pids[i] = start_client(i, way, arguments, work);
	while (atomic_load(&board->ready) < clients) {
		int status;
		pid_t ended = waitpid(-1, &status, WNOHANG);
		if (ended <= 0) {
			pause_for(1000000);
			continue;
		}
		if (!WIFEXITED(status) || WEXITSTATUS(status) != TRY_AGAIN || ++retries > MAX_TRIES) fail("a client ended early");
		pause_for(20000000 + (retries % 5) * 5000000);
		for (int i = 0; i < clients; i++)
			if (pids[i] == ended) pids[i] = start_client(i, way, arguments, work);
	}
	return retries;
}

static void report(int clients, long milliseconds, int retries)
{
	size_t total = 0, kept = 0;
	for (int i = 0; i < clients; i++) {
		total += board->clients[i].count;
		kept += board->clients[i].count < MAX_LATENCIES ? board->clients[i].count : MAX_LATENCIES;
	}
	uint32_t *all = malloc((kept + 1) * sizeof *all);
	if (all == NULL || kept == 0) fail("nothing was signed");
	size_t at = 0;
	for (int i = 0; i < clients; i++) {
		size_t count = board->clients[i].count < MAX_LATENCIES ? board->clients[i].count : MAX_LATENCIES;
		memcpy(all + at, board->clients[i].latencies, count * sizeof *all);
		at += count;
	}
	sort_times(all, kept);
	printf("{\"operations\":%zu,\"milliseconds\":%ld,\"p50\":%u,\"p99\":%u,\"retries\":%d}\n", total, milliseconds,
	       all[kept / 2], all[kept * 99 / 100], retries);
	free(all);
}

static struct work work_of(const char *key)
{
	static const uint8_t digest_info[] = { 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
		                               0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20 };
	struct work work = { .rsa = strcmp(key, "rsa") == 0 };
	size_t prefix = work.rsa ? sizeof digest_info : 0;
	memcpy(work.data, digest_info, prefix);
	memset(work.data + prefix, 0x5a, 32);
	work.length = prefix + 32;
	work.mechanism = work.rsa ? 0x1 : 0x1041;
	return work;
}

int main(int argc, char **argv)
{
	if (argc < 7) fail("usage: sign-load WAY KEY CLIENTS MILLISECONDS ARGUMENT...");
	const struct way *way = strcmp(argv[1], "native") == 0 ? &native_way : &pkcs11_way;
	struct work work = work_of(argv[2]);
	int clients = atoi(argv[3]);
	long milliseconds = atol(argv[4]);
	if (clients < 1 || clients > MAX_CLIENTS || milliseconds < 1) fail("clients or milliseconds");
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) fail("mmap");
	int retries = start_all(clients, way, argv + 5, &work);
	atomic_store(&board->until, microseconds() + (uint64_t)milliseconds * 1000);
	for (int left = clients; left > 0; left--) {
		int status;
		if (wait(&status) < 0 || status != 0) fail("a client did not end well");
	}
	report(clients, milliseconds, retries);
	return 0;
}
