"""Every rule of two steps that pretraining has, with every choice of colours."""

import itertools

from selfadapt.domains.tiny.grids import dsl


def pretrained_compositions():
    """Yields the rules."""
    for names in itertools.permutations(dsl.KINDS, 2):
        if {dsl.KINDS[name].family for name in names} in dsl.PRETRAINED:
            count = dsl.KINDS[names[0]].colours
            for colours in itertools.permutations(range(1, 10), sum(dsl.KINDS[name].colours for name in names)):
                yield dsl.Rule((dsl.Step(names[0], colours[:count]), dsl.Step(names[1], colours[count:])))
