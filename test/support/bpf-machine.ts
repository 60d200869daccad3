import { BPF, type BpfInstruction, DATA_ARCH, DATA_NR } from "../../policy/runtime/bpf.ts";
import type { SystemCall } from "../../policy/runtime/decide.ts";

/** Runs a classic BPF program over `struct seccomp_data` as the kernel does; throws on what its checker would refuse. */
export function runBpf(program: readonly BpfInstruction[], call: SystemCall): number {
  const data = seccompData(call);
  let accumulator = 0;
  for (let at = 0; at < program.length; at += 1) {
    const instruction = program[at];
    if (instruction === undefined) break;
    const { code, jt, jf, k } = instruction;
    if (code === BPF.result) return k;
    if (code === BPF.load) accumulator = data.getUint32(k, true);
    else if (code === BPF.equal) at += accumulator === k ? jt : jf;
    else if (code === BPF.anyBit) at += (accumulator & k) !== 0 ? jt : jf;
    else throw new Error(`opcode ${code} at ${at}`);
  }
  throw new Error("the program ends without a result");
}

function seccompData({ arch, nr, args }: SystemCall): DataView {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(DATA_NR, nr, true);
  data.setUint32(DATA_ARCH, arch, true);
  for (const [index, value] of args.entries()) data.setBigUint64(16 + 8 * index, value, true);
  return data;
}
