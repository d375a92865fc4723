"""Functions and classes: declared, bound to options, looked up by name, described."""

from typing import Any

from google.protobuf.json_format import MessageToDict
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.limits import check_limits
from tuneline.rehearsal.state import App, Function

REPLACE_FLAGS = {"secret_ids": "replace_secret_ids", "volume_mounts": "replace_volume_mounts"}
"""Options that extend what was declared, unless their flag is set and they replace it (modal._function_variants)."""


class Functions(Component):
    """RPCs of functions and classes."""

    async def FunctionPrecreate(self, request: Any, container_id: str | None) -> pb.FunctionPrecreateResponse:
        """Assign an id before the function exists, so that functions can refer to each other."""
        app = self.state.apps[request.app_id]
        function_id = request.existing_function_id or self.state.new_id("fu")
        handle = pb.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            definition_id=f"de-{function_id}",
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
            app_id=app.id,
            base_function_id=function_id,
        )
        function = self.state.functions.setdefault(
            function_id, Function(function_id, app, request.function_name, handle)
        )
        function.handle = handle
        for name, method in request.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(
                pb.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    is_method=True,
                    use_method_name=name,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                    app_id=app.id,
                )
            )
            if method.webhook_config.type:
                handle.method_handle_metadata[name].web_url = await self.expose_endpoint(function, name)
        if request.webhook_config.type:
            handle.web_url = await self.expose_endpoint(function, "")
        app.functions.setdefault(request.function_name, function_id)
        return pb.FunctionPrecreateResponse(function_id=function_id, handle_metadata=handle)

    async def FunctionCreate(self, request: Any, container_id: str | None) -> pb.FunctionCreateResponse:
        function = self.state.functions[request.existing_function_id]
        data = request.function_data if request.HasField("function_data") else pb.FunctionData()
        if request.HasField("function"):
            function.declared = request.function
            _copy_shared_fields(request.function, data)
            data.ranked_functions.add(rank=0).function.CopyFrom(request.function)
        else:
            # Of a list of GPUs, the first is always available here.
            function.declared = data.ranked_functions[0].function
        function.data = data
        check_limits(function.spec, data)
        function.handle.class_parameter_info.CopyFrom(function.spec.class_parameter_info)
        response = pb.FunctionCreateResponse(
            function_id=function.id, function=function.spec, handle_metadata=function.handle, function_data=data
        )
        response.function.web_url = function.handle.web_url
        for name, handle in function.handle.method_handle_metadata.items():
            response.function.method_definitions[name].web_url = handle.web_url
        return response

    async def FunctionBindParams(self, request: Any, container_id: str | None) -> pb.FunctionBindParamsResponse:
        """Return the declared function with some fields replaced: `with_options` and class parameters."""
        base, options = self._function(request.function_id), request.function_options
        key = ("bound", base.id, request.serialized_params, options.SerializeToString(deterministic=True))
        if key not in self.state.ids:
            spec = _with_options(base.spec, options)
            check_limits(spec)
            bound = Function(self.state.new_id("fu"), base.app, base.name, base.handle, spec, base.data)
            bound.parameters, bound.urls = request.serialized_params, base.urls
            self.state.functions[bound.id] = bound
            self.state.ids[key] = bound.id
        bound = self.state.functions[self.state.ids[key]]
        return pb.FunctionBindParamsResponse(bound_function_id=bound.id, handle_metadata=bound.handle)

    async def FunctionGet(self, request: Any, container_id: str | None) -> pb.FunctionGetResponse:
        function = self.find_function(request.app_name, request.object_tag)
        return pb.FunctionGetResponse(function_id=function.id, handle_metadata=function.handle, function=function.data)

    async def ClassCreate(self, request: Any, container_id: str | None) -> pb.ClassCreateResponse:
        class_id = request.existing_class_id or self.state.new_id("cs")
        return pb.ClassCreateResponse(class_id=class_id, handle_metadata=pb.ClassHandleMetadata())

    async def ClassGet(self, request: Any, container_id: str | None) -> pb.ClassGetResponse:
        function = self.find_function(request.app_name, f"{request.object_tag}.*")
        metadata = pb.ClassHandleMetadata(class_function_id=function.id, class_function_metadata=function.handle)
        return pb.ClassGetResponse(class_id=function.app.classes[request.object_tag], handle_metadata=metadata)

    def describe_functions(self, app: App) -> dict[str, Any]:
        """Return function name → everything that was declared for it, as a plain dict."""
        descriptions = {}
        for tag, function_id in app.functions.items():
            function = self.state.functions[function_id]
            if function.declared is None:  # it was refused
                continue
            spec = function.spec
            descriptions[tag] = {
                "gpu": f"{spec.resources.gpu_config.gpu_type}:{spec.resources.gpu_config.count}"
                if spec.resources.gpu_config.gpu_type
                else None,
                "cores": spec.resources.milli_cpu / 1000,
                "memory_mib": spec.resources.memory_mb,
                "memory_limit_mib": spec.resources.memory_mb_max or None,
                "ephemeral_disk_mib": spec.resources.ephemeral_disk_mb,
                "timeout_s": spec.timeout_secs,
                "retries": spec.retry_policy.retries,
                "single_use": spec.single_use_containers,
                "min_containers": spec.autoscaler_settings.min_containers,
                "max_containers": spec.autoscaler_settings.max_containers or None,
                "scaledown_s": spec.autoscaler_settings.scaledown_window,
                "volumes": {m.mount_path: self.state.volumes[m.volume_id].name for m in spec.volume_mounts},
                "secrets": [self._secret_name(s) for s in spec.secret_ids],
                "layers": self.layers(spec.image_id),
                "mounted": [file.filename for mount_id in spec.mount_ids for file in self.state.mounts[mount_id]],
                "schedule": MessageToDict(function.data.schedule) if function.data else {},
                "urls": function.urls,
            }
        return descriptions

    def _secret_name(self, secret_id: str) -> str:
        """Return the secret's name, or its keys if it has none (`env=`, `Secret.from_dict`); never a value."""
        return self.state.secret_names[secret_id] or ", ".join(sorted(self.state.secrets[secret_id]))

    def _function(self, function_id: str) -> Function:
        if function_id not in self.state.functions:
            raise not_found(f"function {function_id}")
        return self.state.functions[function_id]


def _with_options(declared: pb.Function, options: Any) -> pb.Function:
    """Return a copy of a declared function with the fields of `options` replaced or extended."""
    spec = pb.Function()
    spec.CopyFrom(declared)
    for field, value in options.ListFields():
        if field.name not in pb.Function.DESCRIPTOR.fields_by_name:
            continue
        if field.is_repeated:
            flag = REPLACE_FLAGS.get(field.name)
            if flag is None or getattr(options, flag):
                spec.ClearField(field.name)
            getattr(spec, field.name).extend(value)
        elif field.message_type:
            getattr(spec, field.name).MergeFrom(value)  # fields that are not set stay as declared
        else:
            setattr(spec, field.name, value)
    settings = spec.autoscaler_settings
    settings.max_containers = options.concurrency_limit or settings.max_containers
    settings.scaledown_window = options.task_idle_timeout_secs or settings.scaledown_window
    return spec


def _copy_shared_fields(function: pb.Function, data: pb.FunctionData) -> None:
    """Copy the fields that FunctionData shares with Function; newer clients send only one of the two messages."""
    for field in pb.FunctionData.DESCRIPTOR.fields:
        if field.name == "ranked_functions" or field.name not in pb.Function.DESCRIPTOR.fields_by_name:
            continue
        value = getattr(function, field.name)
        if field.is_repeated:
            if field.message_type and field.message_type.GetOptions().map_entry:
                target = getattr(data, field.name)
                for key in value:
                    if hasattr(value[key], "CopyFrom"):
                        target[key].CopyFrom(value[key])
                    else:
                        target[key] = value[key]
            else:
                getattr(data, field.name).extend(value)
        elif field.message_type:
            if function.HasField(field.name):
                getattr(data, field.name).CopyFrom(value)
        elif value:
            setattr(data, field.name, value)
