/**
 * What an editor says of each field of the policy document, in one or two sentences; POLICY.md says the rest. A star stands for whatever is in a
 * list or under a name of one's own.
 */
export const POLICY_WORDS: Readonly<Record<string, string>> = {
  "": "Which libraries are loaded and what each may reach, which tokens and keys they must present, who may call, and for what. Format: policy/POLICY.md.",
  version: "Version of this format.",
  serial: "Grows with each edition.",
  owner: "Who answers for this document.",
  reviewBy: "Date by which somebody has to look at it again. The agent does not act on it, `policy check` warns.",
  devices: "All that the machine shows, sorted: PCI functions vvvv:dddd, USB devices usb:vvvv:pppp without root hubs.",
  sandbox: "How much of the sandbox a kernel must have.",
  "sandbox.lacks": "Features of newer kernels that the sandbox may do without. [] requires all.",
  onViolation:
    "What follows a call that the sandbox denies, or a new device. Both record, measure and report it; kill also ends the token's shims.",
  onLoginLost: "What follows when a token has no shim left that is logged in: a new launch, or no more service.",
  keys: "Every key that is served, by a name of one's own. A label on the token means nothing.",
  "keys.*.spki": "The key: SHA-256 of its SubjectPublicKeyInfo in DER.",
  "keys.*.does": "The one thing that the key is for.",
  "keys.*.token": "The token that must hold it. May be left out where there is one only.",
  "keys.*.accepts": "unknown-history: served although it may once have been outside its token.",
  "keys.*.rate": "A limit over all scopes of this key: a bucket that starts full.",
  "keys.*.rate.perMinute": "Operations by which the bucket refills in a minute.",
  "keys.*.rate.burst": "Operations that a full bucket holds.",
  certificates:
    "An X.509 certificate by the name of its key, in base64 DER: for applications that look for one beside the key.",
  callers: "Who may call, by a name of one's own. At most 256.",
  "callers.*.uid": "The user that the kernel reports for the peer of the socket. Never root.",
  "callers.*.exe":
    "SHA-256 of the executables that may call. Against mistakes: it binds no interpreter's script and no memory.",
  "callers.*.unit": "The systemd unit that the process belongs to, e.g. signer.service. null: not looked at.",
  approvers: "Who may approve, by a name of one's own.",
  "approvers.*.key": "OpenSSH public key, as in a .pub file: ssh-ed25519 or sk-ssh-ed25519@openssh.com.",
  "approvers.*.notFor": "Callers for whom this one's approval does not count: mostly those that he is.",
  scopes: "What may be done: each scope is a socket of its own, and the socket is the purpose.",
  "scopes.*.name": "Name of the scope and of its socket.",
  "scopes.*.caller": "The caller who may use it, and nobody else.",
  "scopes.*.key": "The key that it shows.",
  "scopes.*.keys": "The keys that it shows, in the order in which a caller sees them. Instead of key.",
  "scopes.*.from": "Name of a scope that unwraps: the keys are those that arrive there.",
  "scopes.*.mechanisms": "How the keys may be used. What is not listed is refused.",
  "scopes.*.mechanisms.*.type": "The PKCS #11 mechanism. It applies to the keys of its key type.",
  "scopes.*.mechanisms.*.digest": "The digest that the data must be of, or by which OAEP works.",
  "scopes.*.mechanisms.*.label": "OAEP: the one label, in lower-case hexadecimal. Left out: the empty one.",
  "scopes.*.mechanisms.*.accepts": "The weakness that this mechanism brings, by name. Required where it has one.",
  "scopes.*.unwraps": "The keys that may arrive through this scope, each with all that it will be.",
  "scopes.*.unwraps.*.key": "Its name among the keys that this scope lets in.",
  "scopes.*.unwraps.*.publicKey":
    "Its SubjectPublicKeyInfo, DER in base64: what arrives must be this one's private half.",
  "scopes.*.unwraps.*.does": "The one thing that it is for.",
  "scopes.*.unwraps.*.where": "session: it ends with its shim. token: it stays on the token.",
  "scopes.*.unwraps.*.label": "Its label on the token.",
  "scopes.*.unwraps.*.mechanisms": "The only mechanisms that the token will do with it.",
  "scopes.*.unwraps.*.blob":
    "SHA-256 of the one wrapped key that may arrive. null: any, and then approvals are needed.",
  "scopes.*.rate": "A limit on operations: a bucket that starts full. Left out: no limit.",
  "scopes.*.rate.perMinute": "Operations by which the bucket refills in a minute.",
  "scopes.*.rate.burst": "Operations that a full bucket holds.",
  "scopes.*.failures": "Failed decryptions that each key is good for, over all its scopes.",
  "scopes.*.failures.perHour": "Failures by which the bucket refills in an hour.",
  "scopes.*.failures.burst": "Failures that a full bucket holds.",
  "scopes.*.budget": "A limit that time does not refill.",
  "scopes.*.budget.operations": "Operations in one boot.",
  "scopes.*.valid": "When the scope is open. Left out: always.",
  "scopes.*.valid.from": "First instant, in UTC, e.g. 2027-01-01T00:00:00Z.",
  "scopes.*.valid.until": "First instant at which it is closed again, in UTC.",
  "scopes.*.lifetime": "How long a session lasts, e.g. PT8H.",
  "scopes.*.idle": "How long a session may rest before it ends, e.g. PT15M.",
  "scopes.*.connections": "Connections at once.",
  "scopes.*.inFlight": "Operations at once.",
  "scopes.*.approvals": "People who have to approve before the keys are used.",
  "scopes.*.approvals.required": "How many of them.",
  "scopes.*.approvals.of": "Names of approvers.",
  "scopes.*.approvals.for": "operation: each one by itself. window: whatever the scope allows, for as long as window.",
  "scopes.*.approvals.window":
    "How long a request or an approval waits; for a window, how long it is open. E.g. PT15M.",
  "scopes.*.freezeBit": "The bit of the TPM that freezes this scope alone, across reboots.",
  "scopes.*.audit": "written: the record is in the kernel before the token is asked. durable: it is on the disk.",
  modules: "Pinned PKCS #11 libraries by a name of one's own, and what the shims of each may reach.",
  ...moduleWords("modules.*."),
  "modules.*.files":
    "Path below a writable directory to the name of the sealed credential that is written there first.",
  ...reachWords("modules.*."),
  module: "The one library: short form, with what its shims may reach at the top level.",
  ...moduleWords("module."),
  ...reachWords(""),
  tokens: "The tokens that must be present, by a name of one's own.",
  "tokens.*.module": "Name of the module through which it is reached.",
  "tokens.*.label": "The token's label.",
  "tokens.*.serial": "The token's serial number.",
  "tokens.*.pin": "Name of the sealed credential with this token's PIN.",
  token: "The one token: short form.",
  "token.label": "The token's label.",
  "token.serial": "The token's serial number.",
  credentials: "Short form: which sealed credentials go where.",
  "credentials.pin": "Name of the sealed credential with the token's PIN.",
  "credentials.files":
    "Path below a writable directory to the name of the sealed credential that is written there first.",
};

function moduleWords(at: string): Record<string, string> {
  return {
    [`${at}path`]: "Absolute path of the library in its shims' root.",
    [`${at}sha256`]: "SHA-256 of the library's file.",
    [`${at}closure`]:
      "Every other object that it may map, loader and libc included: path to SHA-256. `ironclaw measure` writes it.",
    [`${at}config`]: "Its configuration files: path to SHA-256.",
    [`${at}environment`]: "The whole environment of its shims.",
  };
}

function reachWords(at: string): Record<string, string> {
  return {
    [`${at}profile`]: "The sandbox that its shims run in.",
    [`${at}profile.name`]: "local: no way out. usb: the device nodes. relay: the endpoints of connect.",
    [`${at}profile.sha256`]: "SHA-256 of the compiled profile; `ironclaw profile explain NAME` says it.",
    [`${at}nodes`]: "Device nodes that exist for its shims: /dev/NAME or usb:vvvv:pppp.",
    [`${at}writable`]: "Directories that are private, empty and writable to each shim.",
    [`${at}connect`]: "What its shims reach, through the relay and nowhere else.",
    [`${at}connect.*.listen`]: "Where a shim sees it: a loopback address with a port, or the path of a socket.",
    [`${at}connect.*.to`]: "Where it leads: an address with a port, never a name, or the path of a socket.",
    [`${at}shims`]: "Shims of each token that serve, logged in all of them; more than one for slow operations (RSA).",
    [`${at}spares`]: "Shims of each token that stand by, logged in too.",
  };
}
