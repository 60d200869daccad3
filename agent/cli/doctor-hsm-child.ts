// Loads the PKCS#11 library of its one argument, asks what needs no login, prints one line of JSON, and ends.
import { PKCS11 } from "pkcs11js";

const MOST_TOKENS = 64;
const OS_LOCKING_OK = 0x2;

function describe(library: PKCS11) {
  const { libraryDescription, manufacturerID } = library.C_GetInfo();
  const tokens = library
    .C_GetSlotList(true)
    .slice(0, MOST_TOKENS)
    .map((slot) => {
      const { label, serialNumber, model, firmwareVersion, flags } = library.C_GetTokenInfo(slot);
      const firmware = `${firmwareVersion.major}.${firmwareVersion.minor}`;
      return { label: label.trimEnd(), serial: serialNumber.trimEnd(), model: model.trimEnd(), firmware, flags };
    });
  return { library: `${manufacturerID.trimEnd()} ${libraryDescription.trimEnd()}`, tokens };
}

function ask(path: string): object {
  const library = new PKCS11();
  let step = "library";
  try {
    library.load(path);
    step = "C_Initialize";
    library.C_Initialize({ flags: OS_LOCKING_OK });
    step = "C_GetTokenInfo";
    return describe(library);
  } catch (error) {
    // The message of a loader names paths, and never more.
    const message = error instanceof Error ? error.message : "a failure";
    return { failed: step, code: (/^CKR_[A-Z0-9_]+/.exec(message)?.[0] ?? message).slice(0, 128) };
  }
}

process.stdout.write(`\n${JSON.stringify(ask(process.argv[2] ?? ""))}\n`, () => process.exit(0));
