// The project's workload: an ordinary program under its own uid that wants signatures. It is told what to sign over its own
// virtio-serial port (one JSON object a line), and can do exactly the operations in SIGNING.
import { runWorkload, SIGNING } from "./signing.ts";

void runWorkload(SIGNING);
