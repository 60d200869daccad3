/*
 * A client of the native protocol, written from agent/RPC.md and nothing else of the project.
 * rpc-client SOCKET MECHANISM HEX: signs the digest with the first key that signs. Prints its name, its public key and the signature.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OP_SIGN = 4, OP_PING = 7, FORM_DIGEST = 1, DOES_SIGN = 1, MAX_LENGTH = 262144 };

struct bytes {
	const uint8_t *at;
	size_t left;
};

static void fail(const char *what)
{
	fprintf(stderr, "rpc-client: %s\n", what);
	exit(1);
}

static void send_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
		if (sent <= 0) fail("send");
		bytes += sent;
		length -= (size_t)sent;
	}
}

static void receive_all(int fd, uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t got = recv(fd, bytes, length, 0);
		if (got <= 0) fail("the agent closed the connection");
		bytes += got;
		length -= (size_t)got;
	}
}

static uint8_t *put_u32(uint8_t *to, uint32_t value)
{
	for (int shift = 24; shift >= 0; shift -= 8) *to++ = (uint8_t)(value >> shift);
	return to;
}

static const uint8_t *take(struct bytes *from, size_t length)
{
	if (length > from->left) fail("a reply is too short");
	const uint8_t *taken = from->at;
	from->at += length;
	from->left -= length;
	return taken;
}

static uint32_t take_number(struct bytes *from, size_t size)
{
	uint32_t value = 0;
	const uint8_t *taken = take(from, size);
	while (size-- > 0) value = value << 8 | *taken++;
	return value;
}

/* `s` has a length of one byte, `b` one of four. */
static struct bytes take_sized(struct bytes *from, size_t size)
{
	size_t length = take_number(from, size);
	return (struct bytes){ take(from, length), length };
}

static void print_hex(const char *name, struct bytes value)
{
	printf("%s ", name);
	for (size_t i = 0; i < value.left; i++) printf("%02x", value.at[i]);
	putchar('\n');
}

static void request(int fd, uint32_t id, uint8_t op, const uint8_t *payload, size_t length)
{
	uint8_t head[9];
	uint8_t *end = put_u32(put_u32(head, (uint32_t)(5 + length)), id);
	*end = op;
	send_all(fd, head, sizeof head);
	send_all(fd, payload, length);
}

/* The payload of the reply to request `id`; the program ends when it is a refusal. */
static struct bytes reply(int fd, uint32_t id)
{
	static uint8_t frame[MAX_LENGTH];
	uint8_t head[4];
	receive_all(fd, head, sizeof head);
	struct bytes in = { head, sizeof head };
	size_t length = take_number(&in, 4);
	if (length < 5 || length > sizeof frame) fail("length");
	receive_all(fd, frame, length);
	in = (struct bytes){ frame, length };
	if (take_number(&in, 4) != id) fail("another id");
	uint32_t reason = take_number(&in, 1);
	if (reason == 0) return in;
	printf("refused %u\n", reason);
	exit(2);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || strlen(path) >= sizeof address.sun_path) fail("socket");
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
	uint8_t greeting[5];
	send_all(fd, (const uint8_t *)"IRPC\1", sizeof greeting);
	receive_all(fd, greeting, sizeof greeting);
	if (memcmp(greeting, "IRPC\1", sizeof greeting) != 0) fail("greeting");
	return fd;
}

/* Reads HELLO up to the first key that signs. */
static struct bytes first_signing_key(struct bytes hello, uint32_t *session)
{
	take_sized(&hello, 1);
	*session = take_number(&hello, 4);
	take_number(&hello, 4);
	take_number(&hello, 2);
	take_number(&hello, 2);
	for (uint32_t keys = take_number(&hello, 1); keys > 0; keys--) {
		struct bytes name = take_sized(&hello, 1);
		uint32_t does = take_number(&hello, 1);
		struct bytes public_key = take_sized(&hello, 4);
		for (uint32_t mechanisms = take_number(&hello, 1); mechanisms > 0; mechanisms--) {
			take_number(&hello, 4);
			take_number(&hello, 1);
			take_sized(&hello, 1);
			take_sized(&hello, 4);
		}
		if (does != DOES_SIGN) continue;
		print_hex("key", public_key);
		return name;
	}
	fail("no key signs");
	return hello;
}

int main(int argc, char **argv)
{
	if (argc != 4 || strlen(argv[3]) > 128) fail("usage: rpc-client SOCKET MECHANISM HEX");
	int fd = connect_to(argv[1]);
	uint32_t session;
	struct bytes key = first_signing_key(reply(fd, 0), &session);
	uint8_t payload[512];
	uint8_t *end = put_u32(payload, session);
	*end++ = (uint8_t)key.left;
	memcpy(end, key.at, key.left);
	end = put_u32(end + key.left, (uint32_t)strtoul(argv[2], NULL, 0));
	*end++ = FORM_DIGEST;
	end = put_u32(end, (uint32_t)(strlen(argv[3]) / 2));
	for (const char *hex = argv[3]; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
		char pair[3] = { hex[0], hex[1], '\0' };
		*end++ = (uint8_t)strtoul(pair, NULL, 16);
	}
	request(fd, 1, OP_SIGN, payload, (size_t)(end - payload));
	print_hex("signature", reply(fd, 1));
	request(fd, 2, OP_PING, payload, 0);
	reply(fd, 2);
	close(fd);
	return 0;
}
