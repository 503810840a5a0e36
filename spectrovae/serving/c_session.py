"""TensorFlow's C++ session and SavedModel loader, which TF Serving is built on, through the C API in the Python wheel.

Imported by ``replay.py`` in a process that has no spectrovae: it needs TensorFlow and NumPy alone. The functions are
those of ``tensorflow/c/c_api.h``.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class _Output(ctypes.Structure):  # TF_Output
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):  # TF_Buffer
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


_POINTERS = (
    "NewStatus", "NewSessionOptions", "NewGraph", "LoadSessionFromSavedModel", "GraphOperationByName",
    "AllocateTensor", "TensorData",
)  # fmt: skip


def library() -> Path | None:
    """The shared library with the C++ runtime; None where TensorFlow comes without one."""
    return next(iter(sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*"))), None)


class Session:
    """A SavedModel in a C++ session, from load to the end of the process.

    Raises:
        RuntimeError: the library is missing, or what its loader said was wrong.
    """

    def __init__(self, folder: str):
        path = library()
        if path is None:
            raise RuntimeError(f"no libtensorflow_cc in {tf.sysconfig.get_lib()}")
        self.c: Any = ctypes.CDLL(str(path))
        for name in _POINTERS:
            getattr(self.c, f"TF_{name}").restype = ctypes.c_void_p
        for name in ("TensorByteSize", "Dim"):
            getattr(self.c, f"TF_{name}").restype = ctypes.c_int64
        self.c.TF_Message.restype = ctypes.c_char_p
        self.c.TF_NewBuffer.restype = ctypes.POINTER(_Buffer)
        self.status = ctypes.c_void_p(self.c.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.c.TF_NewGraph())
        meta = self.c.TF_NewBuffer()
        options = ctypes.c_void_p(self.c.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.c.TF_LoadSessionFromSavedModel(options, None, folder.encode(), tags, 1, self.graph, meta, self.status)
        )
        self._check()
        graph = tf.compat.v1.MetaGraphDef.FromString(ctypes.string_at(meta.contents.data, meta.contents.length))
        self.signatures = graph.signature_def

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named numeric arrays through a signature."""
        definition = self.signatures[signature]
        sent = [self._tensor(np.ascontiguousarray(array)) for array in inputs.values()]
        names = list(definition.outputs)
        received = (ctypes.c_void_p * len(names))()
        starts = self._ends(definition.inputs[name].name for name in inputs)
        ends = self._ends(definition.outputs[name].name for name in names)
        self.c.TF_SessionRun(
            self.session, None, starts, (ctypes.c_void_p * len(sent))(*sent), len(sent), ends, received, len(names),
            None, 0, None, self.status,
        )  # fmt: skip
        for tensor in sent:
            self.c.TF_DeleteTensor(ctypes.c_void_p(tensor))
        self._check()
        return {name: self._array(ctypes.c_void_p(tensor)) for name, tensor in zip(names, received)}

    def _ends(self, names):
        """``operation:index`` of each name as an array of TF_Output."""
        ends = []
        for name in names:
            operation, index = name.rsplit(":", 1)
            found = self.c.TF_GraphOperationByName(self.graph, operation.encode())
            if not found:
                raise RuntimeError(f"the graph has no operation {operation}")
            ends.append(_Output(found, int(index)))
        return (_Output * len(ends))(*ends)

    def _tensor(self, array: np.ndarray) -> int:
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        kind = tf.as_dtype(array.dtype).as_datatype_enum
        tensor = self.c.TF_AllocateTensor(kind, dims, array.ndim, ctypes.c_size_t(array.nbytes))
        ctypes.memmove(self.c.TF_TensorData(ctypes.c_void_p(tensor)), array.ctypes.data, array.nbytes)
        return tensor

    def _array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        shape = [self.c.TF_Dim(tensor, axis) for axis in range(self.c.TF_NumDims(tensor))]
        data = ctypes.string_at(self.c.TF_TensorData(tensor), self.c.TF_TensorByteSize(tensor))
        kind = tf.as_dtype(self.c.TF_TensorType(tensor)).as_numpy_dtype
        self.c.TF_DeleteTensor(tensor)
        return np.frombuffer(data, kind).reshape(shape)

    def _check(self) -> None:
        if self.c.TF_GetCode(self.status):
            raise RuntimeError(self.c.TF_Message(self.status).decode(errors="replace"))
