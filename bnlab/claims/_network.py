"""The network that claims are asked of: the documents', or another as a scope of its own."""

from dataclasses import dataclass

from bnlab import registry
from bnlab.config import Layer, merge_layers, read_file, read_source, shipped, sublayer
from bnlab.errors import ConfigError

DOCUMENTS = "convnet"


@dataclass(frozen=True)
class Network:
    """A network that claims are asked of.

    Attributes:
        model: As `--model` names it: a network of bnlab or of another package, or
            `path.py:function`.
        label: A short name for it; of a file, with its text's hash, since another text is another
            network.
    """

    model: str = DOCUMENTS
    label: str = DOCUMENTS

    @property
    def own(self) -> bool:
        """Whether it is the documents' own, for which the studies are written."""
        return self.model == DOCUMENTS

    def layer(self, preset: str) -> Layer | None:
        """What is laid over a study's base under one preset; None for the documents' network.

        Raises:
            ConfigError: If its file of presets cannot be read.
        """
        if self.own:
            return None
        mark = f"--model {self.model}"
        if self.label != self.model:
            return Layer({"model": {"file": self.model}}, {("model",): mark})
        named = Layer({"model": {"name": self.model}}, {("model",): mark})
        file = shipped("networks", f"{self.model}.yaml")
        if file is None:
            return named
        presets = read_file(file)
        sized = sublayer(presets, preset) if preset in presets.tree else Layer({}, {})
        return merge_layers([sized, named])


OWN = Network()


def find_network(model: str | None) -> Network:
    """The network that `--model` names; the documents' own by default.

    Raises:
        ConfigError: If there is none of that name, or its file cannot be read.
    """
    if model is None or model == DOCUMENTS:
        return OWN
    if ":" in model:
        function = model.rpartition(":")[2]
        return Network(model, f"{function}-{read_source(model)[1][:8]}")
    if fault := registry.MODELS.fault(model):
        raise ConfigError(f"--model {model}: {fault}; or path.py:function")
    if model == "file":
        raise ConfigError("--model file: name the file, as in --model mine.py:Net")
    return Network(model, model)
