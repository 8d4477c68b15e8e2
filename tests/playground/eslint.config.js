import js from "@eslint/js";

export default [
  {
    ...js.configs.recommended,
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      ...js.configs.recommended.rules,
      // The compiler finds both, and knows the browser's names and types.
      "no-undef": "off",
      "no-unused-vars": "off",
      "arrow-body-style": "error",
      "complexity": "error",
      "consistent-return": "error",
      "default-param-last": "error",
      "eqeqeq": "error",
      "max-len": ["error", { code: 150, ignoreStrings: true, ignoreTemplateLiterals: true }],
      "no-console": ["error", { allow: ["error"] }],
      "no-duplicate-imports": "error",
      "no-else-return": "error",
      "no-param-reassign": "error",
      "no-promise-executor-return": "error",
      "no-restricted-properties": ["error", { property: "innerHTML", message: "Build elements with h()." }],
      "no-self-compare": "error",
      "no-shadow": ["error", { hoist: "functions" }],
      "no-template-curly-in-string": "error",
      "no-unreachable-loop": "error",
      "no-useless-return": "error",
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "prefer-destructuring": ["error", { VariableDeclarator: { object: true, array: false } }],
      "prefer-rest-params": "error",
      "prefer-template": "error",
      "radix": "error",
      "sort-imports": ["error", { ignoreCase: true, ignoreDeclarationSort: true }],
    },
  },
];
