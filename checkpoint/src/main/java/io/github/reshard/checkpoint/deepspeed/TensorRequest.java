package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.RuleFile;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * A number of tensor-parallel ranks that is asked for, and what the user or the files beside the
 * checkpoint add to what it says itself.
 *
 * @param ranks how many there will be
 * @param rules how parameters are cut, for a checkpoint that says nothing
 * @param heads the key-value heads of the model
 * @param vocabularyMultiple {@code make_vocab_size_divisible_by} of Megatron
 * @param strips whether rows behind the end of a vocabulary go nowhere
 */
public record TensorRequest(
    int ranks,
    Optional<RuleFile> rules,
    Division.Heads heads,
    OptionalInt vocabularyMultiple,
    boolean strips) {}
