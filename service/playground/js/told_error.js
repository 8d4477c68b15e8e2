/** An error that a person is told of and that is no fault of the page; any other is the page's own, and logged. */
export class ToldError extends Error {}
