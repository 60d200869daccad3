/* One client of the native protocol (RPC.md) that keeps so many SIGN requests waiting. */
#include "sign-load.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { OP_SIGN = 4, FORM_DIGEST = 1, MAX_DEPTH = 64, MAX_FRAME = 65536 };

static int fd;
static uint32_t depth;
static uint8_t request[256];
static size_t request_length;

static void send_all(const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
		if (sent <= 0) fail("send");
		bytes += sent;
		length -= (size_t)sent;
	}
}

/* What comes is read as it comes: a reply for each recv would be a client that waits for itself. */
static const uint8_t *receive(size_t length)
{
	static uint8_t buffer[2 * MAX_FRAME];
	static size_t start, end;
	if (length > MAX_FRAME) fail("length");
	if (start == end) start = end = 0;
	if (start > MAX_FRAME) {
		memmove(buffer, buffer + start, end - start);
		end -= start;
		start = 0;
	}
	while (end - start < length) {
		ssize_t got = recv(fd, buffer + end, sizeof buffer - end, 0);
		if (got <= 0) fail("the agent closed the connection");
		end += (size_t)got;
	}
	start += length;
	return buffer + start - length;
}

static uint32_t number(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint8_t *put_u32(uint8_t *to, uint32_t value)
{
	for (int shift = 24; shift >= 0; shift -= 8) *to++ = (uint8_t)(value >> shift);
	return to;
}

/* Gives the id of the request that was answered. */
static uint32_t reply(const uint8_t **payload)
{
	uint32_t length = number(receive(4));
	if (length < 5) fail("length");
	const uint8_t *frame = receive(length);
	if (frame[4] != 0) fail("refused");
	*payload = frame + 5;
	return number(frame);
}

static bool prepare(char **arguments, const struct work *work)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || strlen(arguments[0]) >= sizeof address.sun_path) fail("socket");
	strcpy(address.sun_path, arguments[0]);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
	send_all((const uint8_t *)"IRPC\1", 5);
	if (memcmp(receive(5), "IRPC\1", 5) != 0) fail("greeting");
	const uint8_t *hello;
	if (reply(&hello) != 0) fail("hello");
	uint32_t session = number(hello + 1 + hello[0]);
	depth = (uint32_t)atoi(arguments[1]);
	if (depth < 1 || depth > MAX_DEPTH) fail("depth");
	const char *name = work->rsa ? "rsa" : "ec";
	request[8] = OP_SIGN;
	uint8_t *end = put_u32(request + 9, session);
	*end++ = (uint8_t)strlen(name);
	memcpy(end, name, strlen(name));
	end = put_u32(end + strlen(name), (uint32_t)work->mechanism);
	*end++ = FORM_DIGEST;
	end = put_u32(end, 32);
	memset(end, 0x5a, 32);
	request_length = (size_t)(end + 32 - request);
	put_u32(request, (uint32_t)request_length - 4);
	return true;
}

static void ask(uint32_t id)
{
	put_u32(request + 4, id);
	send_all(request, request_length);
}

static void run(const struct work *work)
{
	(void)work;
	uint64_t asked[MAX_DEPTH];
	for (uint32_t id = 0; id < depth; id++) {
		asked[id] = microseconds();
		ask(id + 1);
	}
	for (uint32_t waiting = depth; waiting > 0;) {
		const uint8_t *signature;
		uint32_t id = reply(&signature) - 1;
		if (id >= depth) fail("id");
		signed_in(microseconds() - asked[id]);
		waiting -= 1;
		if (!may_go_on()) continue;
		asked[id] = microseconds();
		ask(id + 1);
		waiting += 1;
	}
}

const struct way native_way = { prepare, run };
