"""The methods that ``METHODS`` names: what a stage trains, and how inputs are answered."""

from dataclasses import replace

from tl_taskneurons.continual.inference import (
    NearestTask,
    Plain,
    Routed,
    TaskOracle,
    TaskWeighted,
)
from tl_taskneurons.continual.lora_learners import LoraLearner, OrthogonalLearner
from tl_taskneurons.continual.method import Method
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.continual.weight_learners import JointLearner, WeightLearner

# ruff: noqa: ARG001, D103 (one signature; METHODS says what each is)


def seq_ft(neurons: NeuronLearner) -> Method:
    return Method("seq-ft", WeightLearner(), Plain())


def seq_lora(neurons: NeuronLearner) -> Method:
    return Method("seq-lora", LoraLearner(share=neurons.fraction), Plain())


def o_lora(neurons: NeuronLearner) -> Method:
    return Method("o-lora", OrthogonalLearner(share=neurons.fraction), Plain())


def epi(neurons: NeuronLearner) -> Method:
    return Method("epi", LoraLearner(share=neurons.fraction), NearestTask(), private=True)


def replay(neurons: NeuronLearner) -> Method:
    return Method("replay", WeightLearner(buffer=20), Plain())


def ncft(neurons: NeuronLearner) -> Method:
    return Method("ncft", neurons, Plain())


def w_ncft(neurons: NeuronLearner) -> Method:
    return Method("w-ncft", neurons, TaskWeighted("stages"))


def w_ncft_literal(neurons: NeuronLearner) -> Method:
    return Method("w-ncft-literal", neurons, TaskWeighted("literal"))


def w_ncft_delta(neurons: NeuronLearner) -> Method:
    return Method("w-ncft-delta", neurons, TaskWeighted("delta"))


def ncft_strict(neurons: NeuronLearner) -> Method:
    return Method("ncft-strict", replace(neurons, isolation="strict"), Plain())


def ncft_soft(neurons: NeuronLearner) -> Method:
    return Method("ncft-soft", replace(neurons, isolation="soft"), Plain())


def ncft_mass(neurons: NeuronLearner) -> Method:
    return Method("ncft-mass", replace(neurons, mass=0.5), Plain())


def ncft_exclude(neurons: NeuronLearner) -> Method:
    return Method("ncft-exclude", replace(neurons, contrast="exclude"), Plain())


def epi_neurons(neurons: NeuronLearner) -> Method:
    return Method("epi-neurons", neurons, NearestTask(), private=True)


def routed(neurons: NeuronLearner) -> Method:
    return Method("routed", neurons, Routed(), private=True)


def per_task(neurons: NeuronLearner) -> Method:
    return Method("per-task", WeightLearner(), TaskOracle(), private=True)


def joint(neurons: NeuronLearner) -> Method:
    return Method("joint", JointLearner(), Plain())
