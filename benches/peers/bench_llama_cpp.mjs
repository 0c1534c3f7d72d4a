// The benchmark's inference workloads in llama.cpp, by node-llama-cpp's prebuilt library: the CSV of bench_torch.py.
//
//     npm install node-llama-cpp@3
//     python benches/peers/make_gguf.py --dtype f32 --output models/smollm2-f32.gguf
//     node benches/peers/bench_llama_cpp.mjs models/smollm2-f32.gguf prefill_1x512 [THREADS, 2] [REPEATS, 5] [--no-header]
//
// Token ids are pseudo-random and nothing stops at an end of turn, as in README.md beside this file; llama.cpp keeps its cache
// in f16 and chooses its instructions at run time, both as it comes.
import {createRequire} from "node:module";
import {basename, join} from "node:path";
import {pathToFileURL} from "node:url";
import {readFileSync} from "node:fs";

const [file, workload, threads = "2", repeats = "5"] = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const WORKLOADS = {prefill_1x512: {rows: 1, prompt: 512, fresh: 0}, decode_16x64: {rows: 16, prompt: 32, fresh: 64}};
const shape = WORKLOADS[workload];
if (shape === undefined) {
    console.error(`usage: bench_llama_cpp.mjs FILE.gguf ${Object.keys(WORKLOADS).join("|")} [THREADS] [REPEATS]`);
    process.exit(2);
}
// From the folder where npm installed it, which need not be this one.
const {resolve} = createRequire(join(process.cwd(), "package.json"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(resolve("node-llama-cpp")).href);

const llama = await getLlama({gpu: false, build: "never", maxThreads: Number(threads), logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({
    sequences: shape.rows,
    contextSize: shape.prompt + shape.fresh + 8,
    batchSize: 512,
    // Rows sample apart from each other: without a moment's wait a pass would go off with some of them.
    batching: {dispatchSchedule: (dispatch) => setTimeout(dispatch, 1)},
    threads: {ideal: Number(threads), min: Number(threads)}
});
const sequences = Array.from({length: shape.rows}, () => context.getSequence());
let state = 1;
const draw = () => (state = (state * 48271) % 2147483647) % 49152;
const prompts = sequences.map(() => Array.from({length: shape.prompt}, draw));

let written = 0;
async function row(sequence, prompt) {
    await sequence.clearHistory();
    if (shape.fresh === 0) {
        await sequence.evaluateWithoutGeneratingNewTokens(prompt);
        return;
    }
    let left = shape.fresh;
    for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        written += 1;
        left -= 1;
        if (left === 0) break;
    }
}

const times = [];
for (let run = 0; run < 1 + Number(repeats); run++) {
    written = 0;
    const start = process.hrtime.bigint();
    await Promise.all(sequences.map((sequence, i) => row(sequence, prompts[i])));
    const seconds = Number(process.hrtime.bigint() - start) / 1e9;
    if (written !== shape.rows * shape.fresh) throw new Error(`${written} tokens came, not ${shape.rows * shape.fresh}`);
    if (run > 0) times.push(seconds);
}
times.sort((a, b) => a - b);
const median = (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2;
const memory = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) / 1024;
const tokens = shape.rows * (shape.fresh || shape.prompt);
const dtype = /(f32|bf16|f16)/.exec(basename(file))?.[1] ?? "";
if (!process.argv.includes("--no-header"))
    console.log("impl,device,isa,dtype,threads,model,workload,median_s,tokens_per_s,gflop_per_s,peak_rss_mb,anon_rss_mb");
const {version} = JSON.parse(readFileSync(join(resolve("node-llama-cpp"), "../../package.json"), "utf8"));
console.log(
    [`llama.cpp-node-${version}`, "cpu", "auto", dtype, threads, basename(file), workload, median.toFixed(4), (tokens / median).toFixed(1), "", memory("VmHWM").toFixed(0), memory("RssAnon").toFixed(0)].join(",")
);
process.exit(0);
