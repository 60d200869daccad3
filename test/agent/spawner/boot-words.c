// What PID 1 takes from the command line: the log's level and form, and the variant.
#define main spawner_main
#include "../../../agent/spawner/main.c"
#undef main

int main(void) {
    const char *log = boot_log();
    printf("%s %d\n", log == NULL ? "-" : log, (int)boot_variant());
    return 0;
}
