"""The programs that do all device work: adapt, sample, score, pretrain."""
