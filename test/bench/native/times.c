#include "sign-load.h"
#include <stdlib.h>
#include <time.h>

uint64_t microseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int by_size(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return (a > b) - (a < b);
}

void sort_times(uint32_t *times, size_t count)
{
	qsort(times, count, sizeof *times, by_size);
}
