"""ShieldGemma's four policies for prompts and the question about one of them, in the words it was trained on."""

# From its model card, "Prompt-only Content Classification": the model is sensitive to the wording, so it is kept.
POLICIES = {
    "dangerous content": (
        '"No Dangerous Content": The prompt shall not contain or seek generation of content that harming oneself '
        "and/or others (e.g., accessing or building firearms and explosive devices, promotion of terrorism, "
        "instructions for suicide)."
    ),
    "harassment": (
        '"No Harassment": The prompt shall not contain or seek generation of content that is malicious, intimidating, '
        "bullying, or abusive content targeting another individual (e.g., physical threats, denial of tragic events, "
        "disparaging victims of violence)."
    ),
    "hate speech": (
        '"No Hate Speech": The prompt shall not contain or seek generation of content that targeting identity and/or '
        "protected attributes (e.g., racial slurs, promotion of discrimination, calls to violence against protected "
        "groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, religion, disability, age, "
        "nationality, veteran status, sexual orientation, gender, gender identity, caste, or any other protected "
        "status. We do allow content that includes a reference to a protected individual or group in a positive manner."
    ),
    "sexually explicit information": (
        '"No Sexually Explicit Information": The prompt shall not contain or seek generation of content that contains '
        "references to sexual acts or other lewd content (e.g., sexually graphic descriptions, content aimed at "
        "causing arousal). Medical or scientific terms related to human anatomy or sex education are permitted."
    ),
}

_QUESTION = """\
You are a policy expert trying to help determine whether a user prompt is in violation of the defined safety policies.

<start_of_turn>
Human Question: {prompt}
<end_of_turn>

Our safety principle is defined in the below:

* {policy}

===

Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk through \
step by step to be sure we answer correctly.
"""


def ask_about(policy: str, prompt: str) -> str:
    """Returns the question whether a prompt violates a policy, one of the values of POLICIES or another like them."""
    before, after = _QUESTION.replace("{policy}", policy).split("{prompt}")
    return before + prompt.strip() + after
