// PID 1's way out, as the first process of a PID namespace: there a reboot ends the namespace and nothing else. Arguments: the TPM, the
// store, and `stuck` for a disk that does not answer.
#include <stdbool.h>
#include <unistd.h>

static bool stuck;

static void sync_or_not(void) {
    if (stuck) pause();
    sync();
}

#define sync sync_or_not
#define main spawner_main
#include "../../../agent/spawner/main.c"
#undef main
#undef sync

int main(int argc, char **argv) {
    if (getpid() != 1 || argc < 3) return 1;
    stuck = argc > 3;
    pid_t bystander = fork();
    if (bystander == 0) pause();
    pid_t witness = fork();
    if (witness == 0) {
        setsid(); // another session is no way out
        pause();
    }
    log_line("pids %d %d", (int)bystander, (int)witness);
    static struct spawner spawner;
    spawner.settings = image_settings();
    spawner.settings.tpm = argv[1];
    spawner.settings.store = argv[2];
    open_signals();
    cap_and_reboot(&spawner, EXIT_AGENT_LOST, "the test");
}
