{
  "targets": [
    {
      "target_name": "tpm2_tss",
      "sources": [
        "native/addon.c",
        "native/commands-general.c",
        "native/commands-hierarchy.c",
        "native/commands-nv.c",
        "native/commands-object.c",
        "native/commands-pcr.c",
        "native/commands-policy.c",
        "native/commands-proof.c",
        "native/commands-session.c",
        "native/commands-unseal.c",
        "native/context.c",
        "native/marshal.c",
        "native/openssl_context.c"
      ],
      "defines": ["NAPI_VERSION=9", "_GNU_SOURCE"],
      "cflags": ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"],
      "ldflags": ["-Wl,-z,relro,-z,now"],
      "libraries": ["<!@(pkg-config --libs tss2-esys tss2-mu tss2-rc tss2-tctildr libcrypto)"]
    }
  ]
}
