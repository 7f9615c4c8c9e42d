// A component of componentize-js alone, with the `fetch` event that it offers by default: `/echo` streams the body back,
// `/fail` throws, `/unfinished` never ends its body, any other path is greeted.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  switch (pathname) {
    case "/echo":
      return new Response(request.body);
    case "/unfinished":
      return new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(new TextEncoder().encode("the first half"));
          },
        }),
      );
    case "/fail":
      throw new Error("told to fail");
    default:
      return new Response(`Hello from JavaScript at ${pathname}\n`);
  }
}
