// Every option of MaskSpec and WeightSpec: its control, its range on the slider, and what it does.
const always = () => true;

export const GROUPS = [
  {
    title: "Falloff",
    options: [
      { name: "base_sigma", label: "σ", kind: "pair", low: 0.05, high: 2, step: 0.01,
        help: "base_sigma: width of the Gaussian, in units of the normalised distance; xy: apart along x and y.",
        when: (spec) => spec.decay_type === "gaussian", needs: "Has no effect on a linear decay." },
      { name: "expansion_ratio", label: "Expansion", kind: "number", low: 0, high: 2, step: 0.01,
        help: "Width of the context band on each side, as a share of the box’s side." },
      { name: "decay_type", label: "Decay", kind: "choice", choices: ["gaussian", "linear"],
        help: "How the value falls over the band." },
      { name: "use_anisotropic_gaussian", label: "Anisotropic", kind: "flag",
        help: "Normalise the distance along x and y separately." },
      { name: "use_subpixel_offset", label: "True centre", kind: "flag",
        help: "Measure from the box’s true centre, not from the edge of the clipped box." },
      { name: "min_radius", label: "Least radius", kind: "number", low: 0, high: 8, step: 0.1,
        unit: "cells", help: "Smallest divisor of the normalised distance." },
    ],
  },
  {
    title: "Small objects",
    options: [
      { name: "temperature", label: "Temperature", kind: "choice",
        choices: ["fixed", "size_scaled", "small_gain"], help: "The factor on σ." },
      { name: "small_target_gain", label: "Gain", kind: "number", low: 0.1, high: 5, step: 0.05,
        help: "Factor on σ for small objects.",
        when: (spec) => spec.temperature === "small_gain", needs: "Needs temperature small_gain." },
      { name: "small_target_threshold", label: "Threshold", kind: "number", low: 0, high: 32,
        step: 0.5, unit: "cells", help: "Objects whose side √(w·h) is below it are small.",
        when: (spec) => spec.temperature === "small_gain", needs: "Needs temperature small_gain." },
      { name: "size_reference", label: "Reference", kind: "number", low: 0.5, high: 64,
        step: 0.5, unit: "cells", help: "The side at which the factor is 1.",
        when: (spec) => spec.temperature === "size_scaled", needs: "Needs temperature size_scaled." },
      { name: "size_factor_min", label: "Least factor", kind: "number", low: 0.05, high: 2,
        step: 0.05, help: "Lower bound of the factor.",
        when: (spec) => spec.temperature === "size_scaled", needs: "Needs temperature size_scaled." },
      { name: "size_factor_max", label: "Largest factor", kind: "number", low: 0.5, high: 8,
        step: 0.05, help: "Upper bound of the factor.",
        when: (spec) => spec.temperature === "size_scaled", needs: "Needs temperature size_scaled." },
      { name: "min_size", label: "Least side", kind: "number", low: 0, high: 8, step: 0.1,
        unit: "cells", help: "A shorter side of a box becomes this long." },
    ],
  },
  {
    title: "Patches",
    options: [
      { name: "patch_size", label: "Patch", kind: "number", low: 1, high: 16, step: 1, unit: "cells",
        help: "Side of a patch; 1 for one token a cell." },
      { name: "merge", label: "Merge", kind: "choice", choices: ["max", "sum", "clipped_sum"],
        help: "Value of a patch that several boxes reach." },
      { name: "level_ranges", label: "Object sizes", kind: "range",
        help: "Only boxes whose longer side is above the first and at most the second number." },
    ],
  },
  {
    title: "Weights",
    of: "weights",
    options: [
      { name: "balance", label: "Balance", kind: "choice", choices: ["patch", "object"],
        help: "object: each object has the same share of the objects’ weight." },
      { name: "background_weight", label: "Background", kind: "number", low: 0, high: 2, step: 0.05,
        help: "Weight of a patch that no box gave a value." },
    ],
  },
].map(({ of = "spec", ...group }) => ({
  ...group,
  of,
  options: group.options.map((option) => ({ when: always, needs: "", unit: "", ...option })),
}));

// The field as errors name it.
export const fieldOf = (group, option) =>
  `${group.of === "spec" ? "mask_spec" : "weight_spec"}.${option.name}`;
