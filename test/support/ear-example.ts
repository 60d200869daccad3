// node test/support/ear-example.ts: the worked example of attest/APPRAISAL.md section 3, token and payload, to put there after a change of what a token says.
import { signEar } from "../../attest/index.ts";
import { earKeyOf, exampleResult, publishedKey } from "./ear.ts";
import { inTime } from "./evidence-maker.ts";

const nonce = Uint8Array.from({ length: 32 }, (_, index) => index);
const key = earKeyOf(publishedKey);
const token = await signEar(await exampleResult(), { key, now: inTime, ttlSeconds: 300, nonce });
const payload: unknown = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
process.stdout.write(`${(token.match(/.{1,120}/g) ?? []).join("\n")}\n\n${JSON.stringify(payload, null, 2)}\n`);
