#ifndef IRONCLAW_UNSEALER_CLOCK_H
#define IRONCLAW_UNSEALER_CLOCK_H

#include <time.h>

/* Since some point in the past; 0 when the clock cannot be read. */
static inline long milliseconds(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif
