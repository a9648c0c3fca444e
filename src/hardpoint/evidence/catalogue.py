"""Every kind of finding Hardpoint can make. Ids are stable: a retired id is never given to another kind.

HP1xx the model · HP2xx the data and the threat · HP3xx the strength of the attack · HP4xx the run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A kind of finding: its title, usual severity, why it matters and the usual cure."""

    title: str
    severity: str
    why: str
    cure: str


RULES: dict[str, Rule] = {
    "HP101": Rule(
        "A layer is in training mode",
        "fail",
        "Batch statistics and dropout make every answer depend on the other inputs and on chance.",
        "call model.eval() before assessing",
    ),
    "HP102": Rule(
        "The model returns NaN or infinity",
        "fail",
        "An answer that is not a number can be counted neither as right nor as wrong.",
        "find the layer that overflows and repair it; try float32 or float64 weights",
    ),
    "HP103": Rule(
        "The output is not one row of class scores per input",
        "fail",
        "Attacks need one score per class, at least two classes.",
        "return class scores of shape [n, classes]",
    ),
    "HP104": Rule(
        "The model returns probabilities",
        "warning",
        "A softmax flattens gradients where the model is confident; their logarithm is used instead.",
        "assess the logits, or declare it with TorchModel(module, probabilities=True)",
    ),
    "HP105": Rule(
        "The model is random",
        "warning",
        "One pass decides nothing: the same input may pass once and fail the next time.",
        "report the share of passes that fail, and average gradients over the randomness",
    ),
    "HP106": Rule(
        "An answer depends on the other inputs of its batch",
        "fail",
        "An attacker who chooses the batch chooses the answer; rates then mean nothing for single inputs.",
        "replace batch statistics by stored ones",
    ),
    "HP107": Rule(
        "No usable gradient reaches the input",
        "warning",
        "Attacks that follow gradients stand still, and the model looks robust without being so.",
        "remove the step that stops the gradient, or assess with scores or labels access",
    ),
    "HP108": Rule(
        "The model computes gradients while predicting",
        "warning",
        "Its answer is an optimisation; an attacker must go through it, and plain gradients do not.",
        "assess with scores access too, and compare",
    ),
    "HP109": Rule(
        "Scores are so far apart that cross-entropy gradients vanish",
        "note",
        "In float32 a gap above about 17 makes the softmax of the wrong classes underflow.",
        "nothing to do: Hardpoint's losses do not saturate; peers' cross-entropy attacks will look weak here",
    ),
    "HP110": Rule(
        "The model does not react to small changes of its input",
        "warning",
        "Quantised or constant answers have no gradient, and attacks that need one find nothing.",
        "assess with scores or labels access too",
    ),
    "HP111": Rule(
        "The model offers less access than the threat allows",
        "note",
        "A weaker attacker finds less; the number holds for that attacker only.",
        "assess the original module for the white-box number",
    ),
    "HP112": Rule(
        "The model always gives the same answer",
        "warning",
        "A constant answer cannot be changed, so every attack fails: that is not robustness.",
        "check the weights and the preprocessing",
    ),
    "HP113": Rule(
        "A layer masks gradients",
        "warning",
        "It changes by jumps, which no derivative shows. That hides the way from an attack and protects against none.",
        "read the number that the search found with gradients crossing the layer; a plain attack's would be too high",
    ),
    "HP201": Rule(
        "Inputs lie outside the model's input range",
        "fail",
        "Clipping would change the inputs, and a perturbation budget in other units means something else.",
        "scale the data, or declare the range: TorchModel(module, input_range=(low, high))",
    ),
    "HP202": Rule(
        "The input range looks normalised",
        "warning",
        "A budget of 8/255 means pixels in [0, 1]; on normalised inputs it allows less.",
        "put the normalisation inside the model and pass inputs in [0, 1]",
    ),
    "HP203": Rule(
        "The budget allows nothing",
        "note",
        "With eps 0 the robust accuracy is the clean accuracy.",
        "raise eps if that was not meant",
    ),
    "HP204": Rule(
        "A constraint says nothing",
        "warning",
        "A relation that no row could break constrains no attacker.",
        "remove it or correct it",
    ),
    "HP205": Rule(
        "Clean rows break a constraint",
        "warning",
        "Rows that are not valid to begin with cannot be attacked within the constraints.",
        "correct the relation or the rows",
    ),
    "HP206": Rule(
        "Some inputs cannot be attacked under this threat",
        "note",
        "Their right answer is what the attacker wants already; they count as standing.",
        "leave inputs of the target class out to measure only those that can be attacked",
    ),
    "HP301": Rule(
        "Random noise does better than the attack",
        "fail",
        "An attack that noise beats has not searched the set; its number is not an upper bound worth having.",
        "assess with more steps, with mode='standard', and with scores access",
    ),
    "HP302": Rule(
        "A larger budget breaks fewer inputs",
        "fail",
        "Every change allowed at a small budget is allowed at a large one.",
        "assess with more steps or another loss",
    ),
    "HP303": Rule(
        "An almost unlimited budget does not break the model",
        "fail",
        "With the whole input range to play with every classifier falls; if not, the attack does not work here.",
        "look for masked gradients: HP107, HP108, HP110",
    ),
    "HP304": Rule(
        "A black-box attack finds what the gradient attack missed",
        "warning",
        "Gradients then mislead: the gradient attack's number is too high.",
        "use mode='thorough', which runs both on every input",
    ),
    "HP305": Rule(
        "The last stage still found much",
        "warning",
        "What one more stage would find is bounded by what the last one found.",
        "use mode='standard' or a larger budget",
    ),
    "HP306": Rule(
        "Claimed successes did not stand when checked",
        "note",
        "They were found on the fast copy, or at a rounding's distance from the boundary, and were not counted.",
        "nothing to do: only verified examples count",
    ),
    "HP307": Rule(
        "The search was widened",
        "note",
        "Checks said that gradients mislead here, so the attacks of mode='standard' ran on what still stood.",
        "read the number together with the checks that did not pass",
    ),
    "HP308": Rule(
        "One step does better than many",
        "warning",
        "An iterated attack takes that step first and keeps the best; if it still does worse, it goes astray.",
        "assess with mode='standard'; look for masked gradients: HP107, HP113",
    ),
    "HP309": Rule(
        "Another step size finds more",
        "warning",
        "The result then depends on the attack's settings, and better settings would find more still.",
        "assess with mode='standard' or 'thorough'",
    ),
    "HP310": Rule(
        "Other starts or targets find more",
        "warning",
        "Searches that end in different places have not found the worst one.",
        "assess with mode='standard' or 'thorough', which restart and aim at every class",
    ),
    "HP311": Rule(
        "An attack by labels alone finds what the gradient attack missed",
        "warning",
        "Gradients and scores then both mislead: the gradient attack's number is too high.",
        "use mode='thorough'; assess with labels access too",
    ),
    "HP312": Rule(
        "A longer search comes much nearer",
        "warning",
        "The search stopped on its way: the inputs that stand may fall to more of the same.",
        "assess with more steps: mode='standard' or 'thorough'",
    ),
    "HP313": Rule(
        "The answer trembles",
        "warning",
        "Where faint noise changes the scores much, a gradient says little about the next step.",
        "average gradients over noise, or repair what makes the model so rough",
    ),
    "HP314": Rule(
        "Success levels off",
        "warning",
        "Where some inputs fall, a budget several times as large breaks more; if not, something stops the attack.",
        "look for masked gradients: HP107, HP113; assess with scores access",
    ),
    "HP315": Rule(
        "Transfer from another model finds what the gradient attack missed",
        "warning",
        "The other model's gradients lead where this model's own do not: they are masked.",
        "assess with mode='thorough' and surrogates=…; look for HP113",
    ),
    "HP316": Rule(
        "Planted examples are not found",
        "warning",
        "An attack that misses what is certainly there proves nothing where it finds nothing.",
        "assess with mode='thorough'; find what stops the gradients before the last layer",
    ),
    "HP317": Rule(
        "Some inputs fall to random search only",
        "warning",
        "No gradient attack breaks them however long: gradients mislead around them, and others like them may stand.",
        "use mode='thorough', which runs random search on every input",
    ),
    "HP401": Rule(
        "The budget ran out before every input was attacked in full",
        "warning",
        "Inputs that were not attacked in full count as standing, so the number is too high.",
        "give a larger budget; a run that ran out of seconds can be resumed",
    ),
    "HP402": Rule(
        "The fast copy of the model was not used",
        "note",
        "It did not agree with the model or was not faster; the attack searched on the model itself.",
        "nothing to do",
    ),
    "HP403": Rule(
        "Few inputs",
        "note",
        "The interval is wide; differences inside it are not differences.",
        "assess at least 200 inputs",
    ),
}
