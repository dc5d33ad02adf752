"""Real servers for tests: llama.cpp's, in a process that can be killed, and a proxy before it that spoils what it is told to."""

import http.client
import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import gguf
import numpy as np
import transformers
from gguf import TokenType

SERVE = """
import json, sys
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.api_keys = sys.argv[1], json.loads(sys.argv[2])
slots, threads = int(sys.argv[3]), int(sys.argv[4])
parameters.n_ctx, parameters.n_parallel, parameters.port = 1024 * slots, slots, 0
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(parameters)
print("listening at", server.listening_address, flush=True)
sys.stdin.read()
"""
MATRICES = {
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
}


def save_as_gguf(folder, path):
    """Save the tiny Llama of a folder, and its tokenizer, as a GGUF file of float32, written with the gguf package."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer, config = transformers.AutoTokenizer.from_pretrained(folder), model.config
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_token_list(tokens + [f"[{number}]" for number in range(len(tokens), config.vocab_size)])
    special = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds + [TokenType.UNUSED] * (config.vocab_size - len(tokens)))
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for number in range(config.num_hidden_layers):
        for theirs, name in MATRICES.items():
            matrix = weights[f"model.layers.{number}.{theirs}.weight"]
            if name in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours, transformers halves
                heads = config.num_attention_heads if name == "attn_q" else config.num_key_value_heads
                matrix = matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)
            writer.add_tensor(f"blk.{number}.{name}.weight", np.ascontiguousarray(matrix))
    for theirs, name in (("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")):
        writer.add_tensor(f"{name}.weight", weights[f"{theirs}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def llama_server(file, keys=(), slots=4, threads=1):
    """Serve a GGUF file by llama.cpp in a process of its own; yields the address and the process."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(file), json.dumps(keys), str(slots), str(threads)], **pipes
    ) as process:
        try:
            address = next(line.split()[-1] for line in process.stdout if line.startswith("listening at"))
            yield f"{address}/v1", process
        finally:
            process.send_signal(signal.SIGKILL)


class Proxy(http.server.ThreadingHTTPServer):
    """Stands before a server, at an address of its own, and passes on what is asked and answered.

    upstream: the server's address, which may change. answer(path, body): a (status, headers, body) instead of the server's.
    ask(body): what the server is asked instead. lines(lines): the lines of a stream, changed; where it raises Cut, the connection
    ends. asked: the bodies that were posted to it.
    """

    daemon_threads, request_queue_size = True, 64

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.upstream, self.asked = upstream, []
        self.answer, self.ask, self.lines = lambda path, body: None, lambda body: body, lambda lines: lines
        self.address = f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def proxy(upstream):
    with Proxy(upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Cut(Exception):
    """The connection is to end here."""


def cut_after(count):
    """Return what ends a connection after so many lines of a stream."""

    def lines(lines):
        for number, line in enumerate(lines):
            if number == count:
                raise Cut
            yield line

    return lines


def slow(seconds):
    """Return what sends each line of a stream so much later."""

    def lines(lines):
        for line in lines:
            time.sleep(seconds)
            yield line

    return lines


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        self.pass_on(None)

    def do_POST(self):
        self.pass_on(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def pass_on(self, body):
        self.server.asked += [body] if body else []
        if answer := self.server.answer(self.path, body):
            return self.whole(*answer)
        at = urlsplit(self.server.upstream)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        try:
            connection.request(self.command, self.path, json.dumps(self.server.ask(body)) if body else None, headers)
            response = connection.getresponse()
        except OSError:
            self.close_connection = True  # as if the server itself were gone
            return
        if "text/event-stream" not in response.getheader("Content-Type", ""):
            return self.whole(response.status, {"Content-Type": response.getheader("Content-Type")}, response.read())
        self.send_response(response.status)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in self.server.lines(iter(response.readline, b"")):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")
        except (Cut, OSError):  # or the client has gone
            self.close_connection = True
        finally:
            connection.close()

    def whole(self, status, headers, body):
        self.send_response(status)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass

    def handle(self):
        with suppress(ConnectionError):  # of a client that has closed its connection
            super().handle()
