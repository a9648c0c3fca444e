"""The model as it is served: onnxruntime on the file itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import MissingExtra, ModelError, UnreadableModelFile
from hardpoint.models.onnx.graph import fit_shape, in_chunks
from hardpoint.models.onnx.signature import Signature


class Runtime:
    """Runs an ONNX model on the CPU; ``chunk`` is how many rows it takes at a time (None: any number).

    Raises:
        UnreadableModelFile: when onnxruntime rejects the model.
        MissingExtra: without onnxruntime.
    """

    def __init__(self, content: bytes, signature: Signature, path: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnx", "running ONNX models") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, not printed
        try:
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise UnreadableModelFile(
                f"onnxruntime rejects {path}: {_short(error)}",
                "check the file with onnx.checker, or export it again",
            ) from None
        self.signature = signature
        self.path = path
        self.chunk = signature.batch

    def __call__(self, x: Tensor) -> Tensor:
        """The file's output for ``x`` ``[n, ...]``, on the CPU.

        Raises:
            ModelError: when onnxruntime fails on the inputs.
        """
        rows = fit_shape(x.detach().cpu(), self.signature.shape).to(self.signature.dtype)
        if self.chunk is None:
            return self._run(rows)
        run = self._run if self.signature.batched else lambda piece: self._run(piece[0])
        return in_chunks(run, rows, self.chunk)

    def _run(self, rows: Tensor) -> Tensor:
        feed = {self.signature.input: np.ascontiguousarray(rows.numpy())}
        try:
            (result,) = self._session.run([self.signature.output], feed)
        except Exception as error:
            raise ModelError(
                f"onnxruntime failed on {self.path}: {_short(error)}", "check the inputs' shape and type"
            ) from None
        return torch.from_numpy(np.array(result))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"
