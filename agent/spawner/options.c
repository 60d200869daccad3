#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *const IMAGE_AGENT[] = {
    "/usr/bin/node",
    "--no-experimental-ffi",
    "--disallow-code-generation-from-strings",
    "/usr/lib/ironclaw/agent.cjs",
    "agent",
    "--config",
    "/etc/ironclaw/agent.json",
    NULL,
};

static const struct settings IMAGE_SETTINGS = {
    .output = STDERR_FILENO,
    .agent_uid = AGENT_UID,
    .shim_uid = SHIM_UID,
    .relay_uid = RELAY_UID,
    .cabinet = "",
    .state = "",
    .store = "",
    .state_template = "/usr/lib/ironclaw/state-volume.template",
    .run_dir = "/run/ironclaw-shim",
    .workloads = "/etc/ironclaw/workloads",
    .tpm = "/dev/tpmrm0",
    .relay = "/usr/lib/ironclaw/relay",
    .sysfs = "/sys",
    .devices = "/dev",
    .agent_argv = IMAGE_AGENT,
};

struct settings image_settings(void) { return IMAGE_SETTINGS; }

struct settings parse_options(int argc, char **argv) {
    static const struct option OPTIONS[] = {
        {"service", no_argument, NULL, 's'},          {"cabinet", required_argument, NULL, 'c'},
        {"run-dir", required_argument, NULL, 'r'},    {"workloads", required_argument, NULL, 'w'},
        {"tpm", required_argument, NULL, 't'},        {"single-uid", no_argument, NULL, 'u'},
        {"shim-stderr", no_argument, NULL, 'e'},      {"state", required_argument, NULL, 'd'},
        {"relay", required_argument, NULL, 'p'},      {"sysfs", required_argument, NULL, 'y'},
        {"devices", required_argument, NULL, 'n'},    {"store", required_argument, NULL, 'o'},
        {"cap", no_argument, NULL, 'k'},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = IMAGE_SETTINGS;
    for (int option; (option = getopt_long(argc, argv, "+", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 's': settings.service = true; break;
        case 'c': settings.cabinet = optarg; break;
        case 'r': settings.run_dir = optarg; break;
        case 'w': settings.workloads = optarg; break;
        case 't': settings.tpm = optarg; break;
        case 'u': settings.single_uid = true; break;
        case 'e': settings.shim_stderr = true; break;
        case 'd': settings.state = optarg; break;
        case 'p': settings.relay = optarg; break;
        case 'y': settings.sysfs = optarg; break;
        case 'n': settings.devices = optarg; break;
        case 'o': settings.store = optarg; break;
        case 'k': settings.cap_only = true; break;
        default: exit(EXIT_USAGE);
        }
    }
    if (settings.cap_only && !settings.service && optind == argc) return settings;
    bool too_long = strlen(settings.run_dir) > MAX_PATH - 16 || strlen(settings.sysfs) > MAX_PATH - 16;
    if (settings.cap_only || !settings.service || optind >= argc || too_long) {
        fputs("usage: spawner --service [OPTION...] -- AGENT ARGUMENT..., or spawner --cap [--tpm TPM]  (see agent/SPAWNER.md)\n", stderr);
        exit(EXIT_USAGE);
    }
    if (settings.single_uid) settings.agent_uid = settings.shim_uid = settings.relay_uid = 0;
    settings.agent_argv = argv + optind;
    return settings;
}
