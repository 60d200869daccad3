#include "driver.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLACES 65536
#define LONGEST (1u << 20)

static uint32_t times[PLACES];
static uint32_t places[PLACES];
static uint32_t place_count;
static jmp_buf refused;

_Noreturn void fuzz_refuse(void) { longjmp(refused, 1); }

// Called by every basic block of what is built with -fsanitize-coverage=trace-pc. The program is not position-independent,
// so an address is the same place in every run.
void __sanitizer_cov_trace_pc(void) {
    uint32_t place = (uint32_t)(uintptr_t)__builtin_return_address(0) % PLACES;
    if (times[place]++ == 0) places[place_count++] = place;
}

static bool read_all(void *to, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t n = read(STDIN_FILENO, (uint8_t *)to + done, length - done);
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static void write_all(const void *from, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t n = write(STDOUT_FILENO, (const uint8_t *)from + done, length - done);
        if (n <= 0) _exit(1);
        done += (size_t)n;
    }
}

// One write per input: what was answered stays answered when the next input ends the process.
static void answer(int outcome) {
    static uint32_t record[2 + 2 * PLACES];
    uint32_t words = 0;
    record[words++] = (uint32_t)outcome;
    record[words++] = place_count;
    for (uint32_t i = 0; i < place_count; i++) {
        record[words++] = places[i];
        record[words++] = times[places[i]];
        times[places[i]] = 0;
    }
    place_count = 0;
    write_all(record, words * sizeof record[0]);
}

static void run_one(size_t length) {
    uint8_t *bytes = malloc(length == 0 ? 1 : length);
    if (bytes == NULL || !read_all(bytes, length)) _exit(1);
    volatile int outcome = 1;
    if (setjmp(refused) == 0) outcome = fuzz_one(bytes, length);
    answer(outcome);
    free(bytes);
}

int main(int argc, char **argv) {
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 5;
    uint8_t head[4];
    while (read_all(head, sizeof head)) {
        uint32_t length = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
        if (length > LONGEST) return 1;
        alarm(seconds);
        run_one(length);
    }
    return 0;
}
