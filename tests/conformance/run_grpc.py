"The cases of `grpc_cases.json`, played over a real gRPC channel."
from . import Mismatch, NotRun, Outcome, contains, load, same
from .run_rest import models

METHODS = dict(Predict=("predict", "PredictRequest"), Classify=("classification", "ClassificationRequest"), Regress=("regression", "RegressionRequest"), MultiInference=("inference", "MultiInferenceRequest"),
               GetModelMetadata=("get_model_metadata", "GetModelMetadataRequest"), GetModelStatus=("get_model_status", "GetModelStatusRequest"), HandleReloadConfigRequest=("model_management", "ReloadConfigRequest"))

class Client:
    "Calls by name, with requests in protobuf's JSON."
    def __init__(self, address):
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc as m, prediction_service_pb2_grpc as p
        self.error, self.channel = grpc.RpcError, grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.stubs = (p.PredictionServiceStub(self.channel), m.ModelServiceStub(self.channel))
    def __call__(self, rpc, request, timeout=60): # → (code, message, reply or None)
        from importlib import import_module
        from google.protobuf.json_format import ParseDict
        name = rpc.rpartition("/")[2]
        module, message = METHODS[name]
        call = next(getattr(s, name) for s in self.stubs if hasattr(s, name))
        try: return "OK", "", call(ParseDict(request, getattr(import_module(f"tensorflow_serving.apis.{module}_pb2"), message)()), timeout=timeout)
        except self.error as e: return e.code().name, e.details(), None
    def close(self): self.channel.close()

def as_list(value): return [value] if isinstance(value, str) else value or []

def value_of(proto): # TensorProto → (dtype, shape, flat values)
    import tensorflow as tf
    array = tf.make_ndarray(proto)
    return tf.as_dtype(proto.dtype), list(array.shape), [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]

def check_outputs(reply, expect):
    from tensorflow.core.framework.types_pb2 import DataType
    if (got := sorted(reply.outputs)) != sorted(expect["outputs"]): raise Mismatch(f"the outputs {got} instead of {sorted(expect['outputs'])}")
    for name, want in expect["outputs"].items():
        proto = reply.outputs[name]
        _, shape, values = value_of(proto)
        if (DataType.Name(proto.dtype), shape) != (want["dtype"], want["shape"]): raise Mismatch(f"{name}: {DataType.Name(proto.dtype)} {shape} instead of {want['dtype']} {want['shape']}")
        same(values, want["values"], name)
        field = expect.get("output_field")
        if field and (not getattr(proto, field) or proto.tensor_content): raise Mismatch(f"{name}: the values are not in {field}")

def check_spec(spec, want):
    got = dict(name=spec.name, signature_name=spec.signature_name, version=str(spec.version.value) if spec.HasField("version") else None)
    for key in want: same(got[key], want[key], f"model_spec.{key}")

def check_rows(result, want):
    if "classifications" in want: same([[[c.label, c.score] for c in row.classes] for row in result.classifications], want["classifications"], "classifications")
    if "regressions" in want: same([r.value for r in result.regressions], want["regressions"], "regressions")

def check_results(reply, wanted):
    if len(reply.results) != len(wanted): raise Mismatch(f"{len(reply.results)} results instead of {len(wanted)}")
    for got, want in zip(reply.results, wanted):
        check_spec(got.model_spec, want.get("model_spec", {}))
        check_rows(got.classification_result if "classifications" in want else got.regression_result, want)

def versions(reply): # of GetModelStatus
    from google.protobuf.json_format import MessageToDict
    return [dict(version=str(v.version), state=type(v).State.Name(v.state), error_code=MessageToDict(v.status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)["error_code"], error_message=v.status.error_message) for v in reply.model_version_status]

def check(code, message, reply, expect):
    "Raise `Mismatch` unless a reply is what the case expects."
    if code != expect.get("code", "OK"): raise Mismatch(f"{code} instead of {expect.get('code', 'OK')}: {message}")
    contains(message, as_list(expect.get("message_contains")))
    if reply is None: return
    if "model_spec" in expect: check_spec(reply.model_spec, expect["model_spec"])
    if "outputs" in expect: check_outputs(reply, expect)
    check_rows(reply.result if hasattr(reply, "result") else None, expect)
    if "results" in expect: check_results(reply, expect["results"])
    if "metadata_keys" in expect: same(sorted(reply.metadata), sorted(expect["metadata_keys"]), "metadata")
    if "signatures" in expect:
        from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
        found = SignatureDefMap()
        reply.metadata["signature_def"].Unpack(found)
        same(sorted(found.signature_def), sorted(expect["signatures"]), "signatures")
    if "model_version_status" in expect:
        got, want = versions(reply), expect["model_version_status"]
        if len(got) != len(want): raise Mismatch(f"{len(got)} versions instead of {len(want)}: {got}")
        if expect.get("list_order") == "any": got, want = (sorted(v, key=lambda v: v["version"]) for v in (got, want))
        for g, w in zip(got, want): same({k: g[k] for k in w}, w, f"version {w.get('version')}")

def play(case, client):
    if "sequence" not in case["expect"]: return check(*client(case["rpc"], case["request"]), case["expect"])
    for i, step in enumerate(case["expect"]["sequence"]):
        try: check(*client(step.get("rpc", case["rpc"]), step["request"]), step)
        except Mismatch as e: raise Mismatch(f"step {i}: {e}") from None

def run(folder, start, only=None): # start(models by name): a context that gives an address with `.grpc`
    "Play all cases of a folder and print how each went."
    outcome, found = Outcome(), {}
    for case in load(folder, "grpc", only): found.setdefault(case["id"] if case.get("fresh_model") else None, []).append(case)
    for _, some in sorted(found.items(), key=lambda group: group[0] is None):  # what wants its model loaded anew comes first
        try:
            with start(models(some)) as address:
                if not address.grpc: raise NotRun("needs the gRPC address of the server")
                client = Client(address.grpc)
                for case in some: outcome.play(case, lambda case: play(case, client))
                client.close()
        except NotRun as e:
            def not_run(case, why=e): raise why
            for case in some: outcome.play(case, not_run)
    return outcome
